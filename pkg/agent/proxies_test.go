package agent

import (
	"strings"
	"testing"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper/protocol"
)

func TestProxiesOf(t *testing.T) {
	c, err := config.Parse([]config.File{{Name: "f", Data: []byte(`
upstream_proxy: { url: "http://proxy:3128", username: alice, password_file: /pw }
rules:
  - { name: same, match: { hosts: [a.example] }, action: allow, upstream_proxy: { url: "http://proxy:3128", username: alice, password_file: /pw } }
  - { name: other, match: { hosts: [b.example] }, action: allow, upstream_proxy: { url: "https://proxy:3128" } }
  - { name: file, match: { hosts: [c.example] }, action: allow }
`)}})
	if err != nil {
		t.Fatal(err)
	}
	with := func(text string) *protocol.Configuration {
		return &protocol.Configuration{Passwords: []protocol.Source{{Name: "/pw", Data: []byte(text)}}}
	}
	of := func(text string) proxies {
		t.Helper()
		p, err := proxiesOf(c, with(text))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first := of("secret\n")
	file, same, other := first[c.ProxyOf(nil)], first[c.ProxyOf(&c.Rules[0])], first[c.ProxyOf(&c.Rules[1])]
	if len(first) != 3 || file == nil || file != same || other == nil || other == file || first[c.ProxyOf(&c.Rules[2])] != file {
		t.Errorf("%v", first)
	}
	again := of("secret\r\n")
	again.keep(first)
	if again[c.ProxyOf(nil)] != file || again[c.ProxyOf(&c.Rules[1])] != other {
		t.Error("a reload that changes nothing loses connections")
	}
	changed := of("new")
	changed.keep(first)
	if changed[c.ProxyOf(nil)] == file || changed[c.ProxyOf(&c.Rules[1])] != other {
		t.Error("a new password is not taken, or another proxy suffers")
	}
	for text, want := range map[string]string{
		"": "is empty", "\n": "is empty", "a\nb\n": "control character", "a\x00": "control character", "\xff": "not UTF-8", strings.Repeat("x", maxPassword+1): "longer than",
	} {
		if _, err := proxiesOf(c, with(text)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/pw") {
			t.Errorf("%.10q: %v, want %s", text, err, want)
		}
	}
	if _, err := proxiesOf(c, &protocol.Configuration{}); err == nil {
		t.Error("a file that was not read is an empty password")
	}
}
