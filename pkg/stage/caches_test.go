package stage

import (
	"testing"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/stage/cache"
)

func compiled(t *testing.T, s *Set, text string) []*exchange.Pipeline {
	t.Helper()
	c, err := config.Parse([]config.File{{Name: "f", Data: []byte("version: 1\n" + text)}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Pipelines(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Where a rule has a cache, the rules by which its resources may change drop
// what they make old; nobody else has a stage for it.
func TestInvalidatorsStandWhereTheyMust(t *testing.T) {
	s := New(Options{})
	rules := `
  - { name: read, match: { hosts: [a.example], methods: [GET] }, action: allow, cache: off }
  - { name: write, match: { hosts: [a.example], methods: [GET, POST] }, action: allow }
  - { name: any, match: { hosts: [b.example] }, action: allow }
  - { name: tunnel, match: { hosts: [c.example] }, action: allow, handling: tunnel }
  - { name: deny, match: { hosts: [d.example] }, action: deny }
`
	for _, p := range compiled(t, s, "rules:"+rules) {
		if !p.Empty() {
			t.Error("a stage without a cache anywhere")
		}
	}
	p := compiled(t, s, "cache: { max_bytes: 1MB }\nrules:\n  - { name: cached, match: { hosts: [a.example], methods: [GET], paths: [/x] }, action: allow, cache: {} }"+rules)
	if _, ok := p[0].Stage("cache").(*cache.Stage); !ok {
		t.Error("no cache")
	}
	for i, want := range []bool{false, true, true, false, false} {
		if _, ok := p[i+1].Stage("cache").(*cache.Invalidator); ok != want {
			t.Errorf("rule %d: %t", i+1, ok)
		}
	}
	found := false
	for _, r := range s.Resources() {
		found = found || r == Resource{Name: "cache_bytes", Capacity: 1e6}
	}
	if !found {
		t.Errorf("%+v", s.Resources())
	}
}
