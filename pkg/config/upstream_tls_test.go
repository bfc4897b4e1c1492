package config

import "testing"

// TestCertificateOf: a rule's own block counts, else that of defaults; rules
// whose TLS is not ours show none.
func TestCertificateOf(t *testing.T) {
	c := parse(t, `
defaults: { upstream_tls: { cert: /default.pem, key: /default.key } }
rules:
  - { name: default, action: allow }
  - { name: own, action: allow, upstream_tls: { cert: /own.pem, key: /own.key } }
  - { name: none, action: allow, upstream_tls: { cert: "", key: "" } }
  - { name: tunnel, action: allow, handling: tunnel }
  - { name: direct, match: { cidrs: [203.0.113.0/24] }, action: deny }
  - { name: again, action: allow }
`)
	for i, want := range []string{"/default.pem", "/own.pem", "", "", "", "/default.pem"} {
		u := c.CertificateOf(&c.Rules[i])
		if got := u.set(); got != (want != "") || got && u.Cert != want {
			t.Errorf("rule %s: %+v, want %q", c.Rules[i].Name, u, want)
		}
	}
	all := c.Certificates()
	if len(all) != 2 || all[0].At != "test.yaml:2:27" {
		t.Errorf("%d certificates, the first at %s", len(all), all[0].At)
	}
}
