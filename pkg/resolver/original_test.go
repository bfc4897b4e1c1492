package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// TestOriginal: the server that the workload asked is asked, inside its namespace;
// one that may not be is not, and the configured ones are.
func TestOriginal(t *testing.T) {
	configured := newUpstream(t, zone(rrA("db.example.com.", "203.0.113.9", 60)))
	engine := newUpstream(t, zone(rrA("db.example.com.", "10.0.0.5", 60), rrA("web.internal.", "10.0.0.6", 60)))
	other := newUpstream(t, zone(rrA("db.example.com.", "10.9.9.9", 60)))
	reached := map[scope]netip.AddrPort{
		{2, netip.MustParseAddrPort("127.0.0.11:53")}: engine.addr,
		{3, netip.MustParseAddrPort("127.0.0.11:53")}: other.addr,
	}
	r := newResolver(t, &fakes{}, Limits{}, configured.addr)
	r.original.dial = func(ctx context.Context, network string, netns uint64, server netip.AddrPort) (net.Conn, error) {
		at, ok := reached[scope{netns, server}]
		if !ok {
			return nil, errors.New("not the namespace's server")
		}
		var d net.Dialer
		return d.DialContext(ctx, network, at.String())
	}
	asks := func(workload string, netns uint64, server, name string) []string {
		t.Helper()
		client := Client{Workload: workload, Netns: netns, Server: netip.MustParseAddrPort(server)}
		return addrsOf(unpack(t, r.Answer(t.Context(), client, question(t, name, dnsmessage.TypeA, true), false)))
	}
	looksUp := func(workload, name string) string {
		addrs, err := r.Lookup(t.Context(), workload, name)
		if err != nil || len(addrs) == 0 {
			return "none"
		}
		return addrs[0].String()
	}
	if got := asks("off", 2, "127.0.0.11:53", "db.example.com."); !slices.Equal(got, []string{"203.0.113.9"}) {
		t.Errorf("not switched on: %v", got)
	}
	r.SetUpstreams([]netip.AddrPort{configured.addr}, true)
	for _, c := range []struct {
		workload string
		netns    uint64
		server   string
		name     string
		want     string
	}{
		{"a", 2, "127.0.0.11:53", "db.example.com.", "10.0.0.5"},
		{"a", 2, "127.0.0.11:53", "web.internal.", "10.0.0.6"},
		{"b", 3, "127.0.0.11:53", "db.example.com.", "10.9.9.9"},
		{"c", 2, "198.51.100.66:53", "db.example.com.", "203.0.113.9"},
		{"d", 4, "127.0.0.11:53", "db.example.com.", "203.0.113.9"},
	} {
		if got := asks(c.workload, c.netns, c.server, c.name); !slices.Equal(got, []string{c.want}) {
			t.Errorf("%s asked %s in %d for %s: %v, want %s", c.workload, c.server, c.netns, c.name, got, c.want)
		}
		// The proxy is told the same, without asking the wrong one.
		if got := looksUp(c.workload, c.name[:len(c.name)-1]); got != c.want {
			t.Errorf("%s looks %s up: %s, want %s", c.workload, c.name, got, c.want)
		}
	}
	if got := looksUp("unknown", "web.internal"); got != "none" {
		t.Errorf("what one workload's server says was told to another: %s", got)
	}
	r.SetUpstreams([]netip.AddrPort{configured.addr}, false)
	if got := asks("e", 2, "127.0.0.11:53", "db.example.com."); !slices.Equal(got, []string{"203.0.113.9"}) {
		t.Errorf("switched off: %v", got)
	}
}
