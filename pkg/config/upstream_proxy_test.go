package config

import (
	"strings"
	"testing"
)

func TestParseNoProxy(t *testing.T) {
	for in, want := range map[string]string{
		"*": "*", "*:80": "*:80", "corp.example": "corp.example", "Corp.Example.": "corp.example",
		".corp.example": ".corp.example", "*.corp.example:8443": ".corp.example:8443", "bücher.example": "xn--bcher-kva.example",
		"10.0.0.0/8": "10.0.0.0/8", "10.0.0.1": "10.0.0.1", "10.0.0.1/32": "10.0.0.1", "10.0.0.1:80": "10.0.0.1:80",
		"::1": "::1", "[::1]": "::1", "[::1]:80": "[::1]:80", "::ffff:10.0.0.1": "10.0.0.1", "2001:db8::/32": "2001:db8::/32",
		"[2001:db8::/32]:443": "[2001:db8::/32]:443", "10.0.0.0/8:25": "10.0.0.0/8:25",
	} {
		n, err := parseNoProxy(in)
		if err != nil || n.String() != want {
			t.Errorf("%q: %q, %v; want %q", in, n, err, want)
			continue
		}
		if again, err := parseNoProxy(n.String()); err != nil || again != n {
			t.Errorf("%q is written as %q, which reads %+v, %v", in, n, again, err)
		}
	}
	for _, in := range []string{"", ".", "*.", "a b", "a,b", "http://a", "a:", "a:http", "a:70000", "a:+80", "[a]", "[::1", "fe80::1%eth0", "10.0.0.1/8", "0x7f.1", "**", "a.*"} {
		if n, err := parseNoProxy(in); err == nil {
			t.Errorf("%q is taken for %q", in, n)
		}
	}
}

func FuzzParseNoProxy(f *testing.F) {
	for _, s := range []string{"*", ".a.b:1", "[::1]:80", "10.0.0.0/8", "[::", "a:", ":", "]:1", "*.", "[a/b]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseNoProxy(s)
		if err != nil {
			return
		}
		if again, err := parseNoProxy(n.String()); err != nil || again != n {
			t.Errorf("%q is written as %q, which reads %+v, %v", s, n, again, err)
		}
	})
}

// TestUpstreamProxyOf: a rule's own block counts, else that of defaults, else
// the file's, each as a whole; a kernel's or a denying rule has none.
func TestUpstreamProxyOf(t *testing.T) {
	c := parse(t, `
upstream_proxy: { url: "http://file:3128", username: alice, no_proxy: [corp.example] }
rules:
  - { name: file, action: allow }
  - { name: own, action: allow, upstream_proxy: { url: "https://own" } }
  - { name: none, action: allow, upstream_proxy: { url: "" } }
  - { name: deny, action: deny }
  - { name: direct, match: { cidrs: [203.0.113.0/24] }, action: allow, handling: tunnel }
`)
	want := []string{"http://file:3128", "https://own:443", "", "", "http://file:3128"}
	for i := range c.Rules {
		if got := c.ProxyOf(&c.Rules[i]).URL(); got != want[i] {
			t.Errorf("%s: %q, want %q", c.Rules[i].Name, got, want[i])
		}
	}
	if own := c.ProxyOf(&c.Rules[1]); own.Username != "" || len(own.NoProxy) != 0 {
		t.Errorf("a rule's own proxy took over %+v", own)
	}
	if got := c.ProxyOf(nil).URL(); got != "http://file:3128" {
		t.Errorf("without a rule: %q", got)
	}
	if n := len(c.UpstreamProxies()); n != 2 {
		t.Errorf("%d proxies", n)
	}
	d := parse(t, "defaults: { upstream_proxy: { url: http://d } }\nupstream_proxy: { url: http://f }\nrules: [{ name: r, action: allow }, { name: k, match: { cidrs: [203.0.113.0/24] }, action: allow, handling: tunnel }]\n")
	if got := d.ProxyOf(&d.Rules[0]).URL(); got != "http://d:80" {
		t.Errorf("with defaults: %q", got)
	}
}

// TestShowNoPassword: what is shown names the file, and messages about a mistake
// do not repeat a password that was written into the address.
func TestShowNoPassword(t *testing.T) {
	c := parse(t, `upstream_proxy: { url: "http://p:1", username: alice, password_file: /etc/pw }`)
	for _, shown := range []string{string(c.Show()), string(c.ShowJSON())} {
		if !strings.Contains(shown, "/etc/pw") || !strings.Contains(shown, "alice") {
			t.Errorf("shown without its keys:\n%s", shown)
		}
	}
	for _, url := range []string{"http://alice:hunter2@p:1", "alice:hunter2@p:1", "http://alice:hunter2@p:x", "//alice:hunter2@p", "http://alice:hun%zzter2@p"} {
		_, err := Parse([]File{{"f", []byte("upstream_proxy: { url: '" + url + "' }")}})
		if err == nil || strings.Contains(err.Error(), "hun") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
