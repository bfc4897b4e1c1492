package proxy

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

const pinnedRules = `
rules:
  - {name: open, match: {hosts: [open.example.com]}, private: [127.0.0.0/8], action: allow}
  - {name: paths, match: {hosts: [paths.example.com], paths: [/ok/**]}, private: [127.0.0.0/8], action: allow}
  - {name: before, match: {hosts: [mixed.example.com], methods: [DELETE]}, action: deny}
  - {name: mixed, match: {hosts: [mixed.example.com]}, private: [127.0.0.0/8], action: allow}
  - {name: https, match: {hosts: [https.example.com], protocols: [https]}, private: [127.0.0.0/8], action: allow}
  - {name: mtls, match: {hosts: [mtls.example.com]}, private: [127.0.0.0/8], action: allow, upstream_tls: {cert: /c, key: /k}}
`

// reject shakes hands as a client that trusts nobody.
func (g *gate) reject(cgroup uint64, dst, sni string, version uint16) {
	g.t.Helper()
	c := tls.Client(g.dial(cgroup, dst), &tls.Config{ServerName: sni, RootCAs: newAuthority(g.t, "strict").pool(), NextProtos: []string{"http/1.1"}, MaxVersion: version})
	if err := c.Handshake(); err == nil {
		g.t.Fatal("a client that trusts nobody took a certificate")
	}
	c.Close()
}

// pinnedClient trusts the upstream's own authority alone and asks for a page; an
// error is that of the handshake.
func (g *gate) pinnedClient(cgroup uint64, dst, sni string) (string, error) {
	g.t.Helper()
	c := tls.Client(g.dial(cgroup, dst), &tls.Config{ServerName: sni, RootCAs: g.internet.pool(), NextProtos: []string{"http/1.1"}})
	if err := c.Handshake(); err != nil {
		return "", err
	}
	defer c.Close()
	r := get(g.t, c, sni, "/ok/x")
	return r.text, r.err
}

func TestPinnedIsTunnelled(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		g := newGate(t, pinnedRules, nil)
		tunnelPinned(g, true)
		s := g.secure("open.example.com", nil)
		if _, err := g.pinnedClient(1, s.dst(), "open.example.com"); err == nil {
			t.Fatal("the first connection was tunnelled")
		}
		e := g.event(audit.TLSRejected, 1)
		if !strings.Contains(e.Message, "for one hour its connections to open.example.com are tunnelled") {
			t.Errorf("%q does not say what happens next", e.Message)
		}
		text, err := g.pinnedClient(1, s.dst(), "open.example.com")
		if err != nil || text != "hello open.example.com /ok/x" {
			t.Errorf("%s: %q, %v", tls.VersionName(version), text, err)
		}
		open := g.event(audit.FlowOpen, 2)
		if open.TLS.Handling != "tunnel" || open.Rule != "open" || open.Verdict != "allow" {
			t.Errorf("%+v", open)
		}
		if list := g.p.Pinned(); len(list) != 1 || list[0].Workload != "w1" || list[0].Host != "open.example.com" || time.Until(list[0].Until) > pinnedTime {
			t.Errorf("%+v", list)
		}
		// One that trusts us is tunnelled too, for as long as it is remembered.
		c := tls.Client(g.dial(1, s.dst()), &tls.Config{ServerName: "open.example.com", RootCAs: g.internet.pool()})
		if err := c.Handshake(); err != nil {
			t.Error(err)
		}
		c.Close()
		// Another workload is inspected as before.
		if _, err := g.pinnedClient(2, s.dst(), "open.example.com"); err == nil {
			t.Error("another workload is tunnelled")
		}
		// When the hour is over the client is asked anew.
		g.p.pinned.mu.Lock()
		g.p.pinned.all["w1"]["open.example.com"] = time.Now()
		g.p.pinned.mu.Unlock()
		if _, err := g.pinnedClient(1, s.dst(), "open.example.com"); err == nil {
			t.Error("tunnelled after the hour")
		}
		g.stop()
	}
}

// TestAlertsDoNotSwitchInspectionOff: where a rule has to see requests, a client
// gains nothing by rejecting our certificate, however often.
func TestAlertsDoNotSwitchInspectionOff(t *testing.T) {
	for _, tt := range []struct{ host, why string }{
		{"paths.example.com", "a rule has to see its requests"},
		{"mixed.example.com", "a rule has to see its requests"},
		{"https.example.com", "a rule has to see its requests"},
		{"mtls.example.com", "a rule has to see its requests"},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(fmt.Sprintf("%s/%s", tt.host, tls.VersionName(version)), func(t *testing.T) {
				g := newGate(t, pinnedRules, nil)
				tunnelPinned(g, true)
				s := g.secure(tt.host, nil)
				for range 3 {
					g.reject(1, s.dst(), tt.host, version)
				}
				if e := g.event(audit.TLSRejected, 3); !strings.Contains(e.Message, tt.why) {
					t.Errorf("%q does not say why not", e.Message)
				}
				if _, err := g.pinnedClient(1, s.dst(), tt.host); err == nil {
					t.Error("tunnelled")
				}
				if len(g.p.Pinned()) != 0 || s.conns.Load() != 0 {
					t.Errorf("remembered %v, %d connections", g.p.Pinned(), s.conns.Load())
				}
			})
		}
	}
}

// What is remembered is no decision: the policy that holds is asked each time.
func TestPinnedAfterReload(t *testing.T) {
	g := newGate(t, pinnedRules, nil)
	tunnelPinned(g, true)
	s := g.secure("open.example.com", nil)
	g.reject(1, s.dst(), "open.example.com", tls.VersionTLS13)
	g.event(audit.TLSRejected, 1)
	if _, err := g.pinnedClient(1, s.dst(), "open.example.com"); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(){
		"on_pinned: block": func() { tunnelPinned(g, false) },
		"a rule with paths": func() {
			next := settings(t, strings.ReplaceAll(pinnedRules, "paths.example.com", "open.example.com"))
			next.TunnelPinned = true
			next.Policy = settings(t, `
rules:
  - {name: no, match: {hosts: [open.example.com], paths: [/admin/**]}, action: deny}
  - {name: open, match: {hosts: [open.example.com]}, private: [127.0.0.0/8], action: allow}
`).Policy
			g.p.Apply(next)
		},
		"a rule that denies": func() {
			next := settings(t, "rules: [{name: no, match: {hosts: [open.example.com]}, action: deny}]")
			next.TunnelPinned = true
			g.p.Apply(next)
		},
	} {
		change()
		if _, err := g.pinnedClient(1, s.dst(), "open.example.com"); err == nil {
			t.Errorf("tunnelled with %s", name)
		}
	}
}

// Blocked is the default: a client that rejects us goes on failing.
func TestPinnedIsBlocked(t *testing.T) {
	g := newGate(t, pinnedRules, nil)
	s := g.secure("open.example.com", nil)
	for range 2 {
		g.reject(1, s.dst(), "open.example.com", tls.VersionTLS13)
	}
	if e := g.event(audit.TLSRejected, 2); strings.Contains(e.Message, "on_pinned") {
		t.Error(e.Message)
	}
	if s.conns.Load() != 0 {
		t.Error("the upstream was contacted")
	}
}

// Without a name from the client nobody knows what else is at the address.
func TestPinnedNeedsAName(t *testing.T) {
	g := newGate(t, pinnedRules+"  - {name: by-address, match: {cidrs: [127.0.0.0/8]}, private: [127.0.0.0/8], action: allow}\n", nil)
	tunnelPinned(g, true)
	s := g.secure("open.example.com", nil)
	for range 2 {
		c := tls.Client(g.dial(1, s.dst()), &tls.Config{ServerName: "127.0.0.1", RootCAs: g.internet.pool(), NextProtos: []string{"http/1.1"}})
		if err := c.Handshake(); err == nil {
			t.Error("tunnelled")
		}
		c.Close()
	}
	g.event(audit.TLSRejected, 2)
	if n := len(g.p.Pinned()); n != 0 {
		t.Errorf("%d names are remembered", n)
	}
}

func tunnelPinned(g *gate, on bool) {
	s := *g.p.settings.Load()
	s.TunnelPinned = on
	g.p.Apply(&s)
}

func TestPinnedBounds(t *testing.T) {
	var p pinned
	now := time.Now()
	for i := range maxPinnedPerWorkload {
		if !p.add("w", fmt.Sprint("h", i), now) {
			t.Fatalf("no room for %d", i)
		}
	}
	if p.add("w", "one more", now) || p.has("w", "one more", now) {
		t.Error("one workload has more than its share")
	}
	if !p.add("w", "h0", now.Add(time.Minute)) || p.has("w", "h0", now.Add(pinnedTime)) {
		t.Error("an entry was prolonged or forgotten")
	}
	for w := 0; p.len() < maxPinned; w++ {
		for i := range maxPinnedPerWorkload {
			p.add(fmt.Sprint("w", w), fmt.Sprint("h", i), now)
		}
	}
	if p.add("late", "h", now) || p.len() != maxPinned {
		t.Errorf("%d names are remembered, want at most %d", p.len(), maxPinned)
	}
	if later := now.Add(pinnedTime); !p.add("late", "h", later) || p.len() != 1 || len(p.list(later)) != 1 {
		t.Errorf("%d names after the hour", p.len())
	}
}
