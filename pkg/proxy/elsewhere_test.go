package proxy

import (
	"net/netip"
	"strings"
	"testing"
)

// TestAddressesOfAnotherNamespace: what is local to the workload's own network
// namespace is not dialled from ours, also where a rule lists it and in observe
// mode.
func TestAddressesOfAnotherNamespace(t *testing.T) {
	for mode, rules := range map[string]string{
		"observe": "mode: observe\n",
		"listed":  "rules: [ { name: own, match: { cidrs: [127.0.0.0/8] }, action: allow }, { name: named, match: { hosts: [api.example.com] }, private: [127.0.0.0/8], action: allow } ]\n",
	} {
		t.Run(mode, func(t *testing.T) {
			var here bool
			g := newGate(t, rules, func(o *Options) {
				o.Own = own{elsewhere: func(_ uint64, a netip.Addr) bool { return !here && a.IsLoopback() }}
			})
			s := g.web("api.example.com", "127.0.0.1:0", nil, nil)
			r := get(t, g.dial(1, s.dst()), "127.0.0.1", "/")
			r.mustRefuse(t, 403, "address_denied")
			if !strings.Contains(r.text, "handling: direct") {
				t.Errorf("the refusal does not say what reaches it: %s", r.text)
			}
			get(t, g.dial(1, s.dst()), "api.example.com", "/").mustRefuse(t, 403, "address_denied")
			tunnel := g.dial(1, "203.0.113.1:80")
			ask(t, tunnel, "CONNECT "+s.dst()+" HTTP/1.1\r\nHost: x\r\n\r\n")
			get(t, tunnel, "127.0.0.1", "/").mustRefuse(t, 403, "address_denied")
			if n := s.conns.Load(); n != 0 {
				t.Errorf("%d connections to the host's own address", n)
			}
			// The same where the namespace is ours.
			here = true
			if r := get(t, g.dial(1, s.dst()), "127.0.0.1", "/"); r.StatusCode != 200 {
				t.Errorf("%+v", r)
			}
		})
	}
}
