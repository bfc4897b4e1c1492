package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/pkg/config"
)

// TestWarnedIsNeverReached: a rule that the configuration's warnings call never
// reached decides nothing, also of what can be read in several ways. Somebody
// would take it out.
func TestWarnedIsNeverReached(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		b.WriteString("rules:\n")
		for i := range rapid.IntRange(2, 4).Draw(t, "rules") {
			action := rapid.SampledFrom([]string{"allow", "deny"}).Draw(t, "action")
			fmt.Fprintf(&b, "- { name: r%d, action: %s, match: { protocols: [http]", i, action)
			for _, k := range []struct {
				name   string
				values []string
			}{
				{"cidrs", some(t, "cidrs", 2, "10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32")},
				{"methods", some(t, "methods", 2, "GET", "P*", "*")},
				{"paths", some(t, "paths", 2, "/x/a", "/x/a/", "/x%2Fa", "/x/*", "/x/**", "/**", "**")},
			} {
				if len(k.values) > 0 {
					fmt.Fprintf(&b, ", %s: %s", k.name, list(k.values))
				}
			}
			if v := some(t, "headers", 2, "a", "b*", "*"); len(v) > 0 {
				fmt.Fprintf(&b, ", headers: { X-Test: %s }", list(v))
			}
			b.WriteString(" } }\n")
		}
		c, warnings, err := config.Check([]config.File{{Name: "f", Data: []byte(b.String())}})
		if err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		p, err := Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		told := make(map[string]bool)
		for _, w := range warnings {
			var name string
			if _, err := fmt.Sscanf(w.Message, "rule %q is never reached:", &name); err != nil {
				t.Fatalf("%v: %v", w, err)
			}
			told[name] = true
		}
		for range 40 {
			q := drawQuery(t)
			q.Protocol = HTTP
			q.HTTP = &HTTPQuery{
				Method: rapid.SampledFrom([]string{"GET", "get", "POST", "post"}).Draw(t, "method"),
				Path:   rapid.SampledFrom([]string{"/", "/x/a", "/x/a/", "//x/a", "/x//a", "/x%2Fa", "/x/a;v=1", "/x;v/a", "/x/a.", "*"}).Draw(t, "path"),
				Header: headers{"X-Test": some(t, "values", 2, "a", "b", "bb", "c")},
			}
			if len(q.Addrs) > 0 && rapid.Bool().Draw(t, "embedded") {
				// 10.1.0.1 behind NAT64 (RFC 6052 section 2.1).
				q.Addrs[0] = netip.MustParseAddr("64:ff9b::10.1.0.1")
			}
			if d := p.Decide(q); told[d.Rule] {
				t.Fatalf("%+v %+v\ndecided by %q: %v\n%s", q, q.HTTP, d.Rule, warnings, b.String())
			}
		}
	})
}
