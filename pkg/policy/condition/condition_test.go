package condition

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func variables() *Variables {
	return &Variables{
		Method: "GET", Path: "/repos/a/b", RawQuery: "per_page=50&per_page=100&q=x%20y", Host: "api.example.com", HTTPS: true, Port: 443,
		Fields: func(yield func(string, string) bool) {
			_ = yield("Accept", "application/json") && yield("X-Team", "a") && yield("x-team", "b")
		},
		Workload: "github", Unit: "mcp-github.service", Cgroup: "/mcp.slice/mcp-github.service", UID: 1000,
		Addrs: []netip.Addr{netip.MustParseAddr("::ffff:203.0.113.9")},
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text  string
		want  bool
		fails string
	}{
		{text: `request.query["per_page"].all(v, int(v) <= 100)`, want: true},
		{text: `request.query["per_page"].all(v, int(v) <= 99)`},
		{text: `request.query["page"].all(v, int(v) <= 99)`, fails: "no such key: page"},
		{text: `!("page" in request.query) || request.query["page"].all(v, int(v) <= 99)`, want: true},
		{text: `request.query["q"].all(v, int(v) <= 99)`, fails: "type conversion error"},
		{text: `request.query["q"] == ["x y"]`, want: true},
		{text: `request.method == "GET" && request.scheme == "https" && request.port == 443`, want: true},
		{text: `request.host.endsWith(".example.com") && request.path.startsWith("/repos/")`, want: true},
		{text: `request.headers["x-team"] == ["a", "b"] && !("cookie" in request.headers)`, want: true},
		{text: `workload.name == "github" && workload.unit.matches("^mcp-.*[.]service$") && workload.uid == 1000 && workload.container == ""`, want: true},
		{text: `flow.addresses == ["203.0.113.9"] && flow.port == 443`, want: true},
		{text: `request.path.split("/").size() == 4`, want: true},
		{text: strings.Repeat("[1,2,3,4,5,6,7,8,9].all(a, ", 6) + "true" + strings.Repeat(")", 6), fails: "cost limit"},
	} {
		var c Compiler
		cond, err := c.Compile(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		got, err := cond.Holds(variables())
		switch {
		case tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)):
			t.Errorf("%.80s: %v, %v; want an error with %q", tt.text, got, err, tt.fails)
		case tt.fails == "" && (err != nil || got != tt.want):
			t.Errorf("%s: %v, %v", tt.text, got, err)
		}
		if err != nil && (got || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v with %q", tt.text, got, err)
		}
	}
}

func TestQueriesThatTwoParsersReadDifferently(t *testing.T) {
	t.Parallel()
	var c Compiler
	cond, err := c.Compile(`!("admin" in request.query)`)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{"a=1;admin=1", "a=%zz&admin=1", "%=1"} {
		v := variables()
		v.RawQuery = raw
		if held, err := cond.Holds(v); held || err == nil {
			t.Errorf("%q: %v, %v", raw, held, err)
		}
	}
}

// TestManyParameters: a query or header of many fields, which a workload chooses,
// is read once, however often a condition looks at it. Read in each round of a
// loop, these would take half a minute each.
func TestManyParameters(t *testing.T) {
	t.Parallel()
	const n = 10_000
	var query strings.Builder
	for i := range n {
		fmt.Fprintf(&query, "%d=&", i)
	}
	walks := 0
	v := variables()
	v.RawQuery = strings.TrimSuffix(query.String(), "&")
	v.Fields = func(yield func(string, string) bool) {
		walks++
		for i := range n {
			if !yield(fmt.Sprint("x-", i), "v") {
				return
			}
		}
	}
	for _, text := range []string{
		`request.query.all(k, request.query[k].all(v, size(v) < 100))`,
		`request.headers.all(k, request.headers[k].all(v, size(v) < 100))`,
	} {
		var c Compiler
		cond, err := c.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if held, err := cond.Holds(v); held || err == nil || !strings.Contains(err.Error(), "cost limit") {
			t.Errorf("%s: %v, %v", text, held, err)
		}
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("%s: took %v", text, d)
		}
	}
	if walks != 1 {
		t.Errorf("the fields were walked %d times", walks)
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`request.methd == "GET"`:    "1:8: undeclared reference to 'request.methd' (did you mean 'request.method'?)",
		`request.method ==`:         "1:18: Syntax error",
		`request.method`:            "gives string, want true or false",
		`request.port == "443"`:     "no matching overload",
		`now() > 1`:                 "undeclared reference to 'now'",
		``:                          "Syntax error",
		strings.Repeat("x", 5000):   "longer than 4096 bytes",
		`request.path.matches("(")`: "",
	} {
		var c Compiler
		cond, err := c.Compile(text)
		if err == nil && want == "" {
			// A broken pattern may be found only when it is used: then it fails.
			if held, err := cond.Holds(variables()); held || err == nil {
				t.Errorf("%s: %v, %v", text, held, err)
			}
			continue
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) || err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}

func BenchmarkHolds(b *testing.B) {
	for name, text := range map[string]string{
		"flat":  `request.method == "GET" && request.path.startsWith("/repos/") && request.host.endsWith(".example.com")`,
		"query": `request.query["per_page"].all(v, int(v) <= 100)`,
	} {
		b.Run(name, func(b *testing.B) {
			var c Compiler
			cond, err := c.Compile(text)
			if err != nil {
				b.Fatal(err)
			}
			v := variables()
			b.ReportAllocs()
			for b.Loop() {
				if held, err := cond.Holds(v); !held || err != nil {
					b.Fatal(held, err)
				}
			}
		})
	}
}
