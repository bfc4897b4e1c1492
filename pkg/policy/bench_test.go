package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/config"
)

// bigConfig is the size that the gateway is built for: 10,000 rules for 1,000
// hosts, 20 % of them wildcards, 30 % of the rules with paths, 500 rules on one
// host. Rules of that host differ in every key in which rules differ.
func bigConfig() string {
	const rules, hosts, crowded = 10_000, 1_000, 500
	var b strings.Builder
	b.WriteString("workloads:\n  w: {}\n")
	for i := range 20 {
		fmt.Fprintf(&b, "  other-%d: {}\n", i)
	}
	b.WriteString("rules:\n")
	write := func(i int, host, match string) {
		fmt.Fprintf(&b, "- name: rule-%d\n  match: { hosts: [%q], %s }\n  action: %s\n", i, host, match, []string{"allow", "deny"}[i%7/6])
	}
	// Every twentieth rule is one of the crowded host, the last rule of all too.
	n := 0
	for i := range rules {
		if i%20 == 19 {
			n++
			match := fmt.Sprintf("ports: [443], methods: [GET], workloads: [other-%d]", n%20)
			switch {
			case n == crowded:
				match = `ports: [443], protocols: [https], workloads: [w], methods: [GET], paths: ["/repos/*/issues/**"]`
			case n%10 < 3:
				match = fmt.Sprintf(`methods: [GET, HEAD], paths: ["/repos/team-%d/**"]`, n)
			case n%10 == 3:
				match = fmt.Sprintf("ports: [%d]", 1000+n)
			case n%10 == 4:
				match = "methods: [POST, PUT]"
			case n%10 == 5:
				match = "protocols: [http]"
			case n%10 == 6:
				match = `headers: { X-Trial: "yes*" }`
			}
			write(i, "crowded.example.com", match)
			continue
		}
		host := fmt.Sprintf("api-%d.example.com", i%(hosts-1))
		if i%(hosts-1)%5 == 0 {
			host = fmt.Sprintf("*.zone-%d.example.org", i%(hosts-1))
		}
		match := "ports: [443]"
		if i%20 < 6 && i%100 != 0 {
			match = fmt.Sprintf(`paths: ["/v%d/**", "/%d/*"]`, i%50, i)
		}
		write(i, host, match)
	}
	return b.String()
}

func bigPolicy(t testing.TB) (*config.Config, *Policy) {
	t.Helper()
	c, err := config.Parse([]config.File{{Name: "big", Data: []byte(bigConfig())}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	return c, p
}

// lastOfMany is decided by the last of the 500 rules on its host.
func lastOfMany() *Query {
	return &Query{
		Workload: "w", Host: "crowded.example.com", Addrs: addrs("203.0.113.1"), Port: 443, Protocol: HTTPS,
		HTTP: &HTTPQuery{Method: "GET", Path: "/repos/sallyport/issues/42/comments", Header: headers{"Accept": {"application/json"}}},
	}
}

func TestBigPolicyIsWhatItSays(t *testing.T) {
	c, p := bigPolicy(t)
	hosts, wild, paths, crowded := map[string]bool{}, map[string]bool{}, 0, 0
	for i := range c.Rules {
		m := &c.Rules[i].Match
		name := m.Hosts[0].String()
		hosts[name] = true
		if m.Hosts[0].Wildcard {
			wild[name] = true
		}
		if len(m.Paths) > 0 {
			paths++
		}
		if name == "crowded.example.com" {
			crowded++
		}
	}
	if len(c.Rules) != 10_000 || len(hosts) != 1_000 || crowded != 500 {
		t.Errorf("%d rules, %d hosts, %d on one", len(c.Rules), len(hosts), crowded)
	}
	if n := len(wild); n < 190 || n > 210 {
		t.Errorf("%d wildcards", n)
	}
	if paths < 2_900 || paths > 3_100 {
		t.Errorf("%d rules with paths", paths)
	}
	if d := p.Decide(lastOfMany()); d.Rule != "rule-9999" || d.Verdict != Allow {
		t.Errorf("%v by %s", d.Verdict, d.Rule)
	}
}

// TestDecisionsDoNotAllocate, whatever is asked.
func TestDecisionsDoNotAllocate(t *testing.T) {
	_, p := bigPolicy(t)
	own := noOwn
	queries := map[string]*Query{
		"last of many": lastOfMany(),
		"no rule":      with(lastOfMany(), func(q *Query) { q.Host = "unknown.example.net" }),
		"wildcard":     with(lastOfMany(), func(q *Query) { q.Host = "a.b.zone-5.example.org" }),
		"no name":      with(lastOfMany(), func(q *Query) { q.Host = "" }),
		"address":      with(lastOfMany(), func(q *Query) { q.Host = "203.0.113.1" }),
		"connection":   with(lastOfMany(), func(q *Query) { q.HTTP, q.Protocol = nil, TCP }),
	}
	for name, q := range queries {
		if n := testing.AllocsPerRun(100, func() {
			d := p.Decide(q)
			d.Permits(q.Addrs[0], own)
			p.DecideConn(q)
			p.DecideName(q.Workload, q.Host)
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestBigPolicyIsFast holds the bounds with room for a busy machine; the
// benchmarks give the figures.
func TestBigPolicyIsFast(t *testing.T) {
	c, p := bigPolicy(t)
	best := time.Hour
	for range 3 {
		start := time.Now()
		if _, err := Compile(c); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	if best > time.Second {
		t.Errorf("compiling takes %v", best)
	}
	q := lastOfMany()
	best = time.Hour
	for range 20 {
		start := time.Now()
		for range 100 {
			p.Decide(q)
		}
		best = min(best, time.Since(start)/100)
	}
	if best > 5*time.Microsecond {
		t.Errorf("deciding takes %v", best)
	}
}

func BenchmarkCompile(b *testing.B) {
	c, _ := bigPolicy(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	_, p := bigPolicy(b)
	for name, q := range map[string]*Query{
		"last-of-500": lastOfMany(),
		"no-rule":     with(lastOfMany(), func(q *Query) { q.Host = "unknown.example.net" }),
		"wildcard":    with(lastOfMany(), func(q *Query) { q.Host = "a.b.zone-5.example.org" }),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(q)
			}
		})
	}
}

func BenchmarkDecideConn(b *testing.B) {
	_, p := bigPolicy(b)
	q := lastOfMany()
	q.HTTP = nil
	b.ReportAllocs()
	for b.Loop() {
		p.DecideConn(q)
	}
}

func BenchmarkParseBigConfig(b *testing.B) {
	data := []byte(bigConfig())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := config.Parse([]config.File{{Name: "big", Data: data}}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestManySetsOfWorkloads has more than are kept while a decision is made.
func TestManySetsOfWorkloads(t *testing.T) {
	var b, rules strings.Builder
	b.WriteString("workloads:\n")
	for i := range 3 * keptSets {
		fmt.Fprintf(&b, "  w%d: {}\n", i)
		fmt.Fprintf(&rules, "- { name: r%d, match: { workloads: [w%d] }, action: allow }\n", i, i)
	}
	p := compile(t, b.String()+"rules:\n"+rules.String())
	for _, i := range []int{0, 63, 64, keptSets - 1, keptSets, 3*keptSets - 1} {
		q := with(get("h.example", "/"), func(q *Query) { q.Workload = fmt.Sprintf("w%d", i) })
		if d := p.Decide(q); d.Rule != fmt.Sprintf("r%d", i) {
			t.Errorf("w%d: decided by %q", i, d.Rule)
		}
	}
	if d := p.Decide(get("h.example", "/")); d.Rule != "" {
		t.Errorf("decided by %q", d.Rule)
	}
}
