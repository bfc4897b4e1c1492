package agent

import (
	"net/netip"
	"testing"
)

func TestOwn(t *testing.T) {
	o, err := newOwn(1, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:15001"), netip.MustParseAddrPort("[::1]:15001"), netip.MustParseAddrPort("0.0.0.0:9595")})
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]bool{
		"127.0.0.1:15001": true, "[::1]:15001": true, "[::ffff:127.0.0.1]:15001": true,
		"0.0.0.0:15001": true, "[::]:15001": true, "[::ffff:0.0.0.0]:15001": true,
		"127.0.0.1:9595": true, "127.8.8.8:9595": true, "[::1]:9595": true, "0.0.0.0:9595": true, "198.51.100.7:9595": false,
		"127.0.0.1:15002": false, "127.0.0.2:15001": false, "203.0.113.1:15001": false,
	} {
		if got := o.Listener(netip.MustParseAddrPort(at)); got != want {
			t.Errorf("Listener(%s) = %v", at, got)
		}
	}
	if !o.Host(netip.MustParseAddr("127.0.0.1")) || o.Host(netip.MustParseAddr("198.51.100.7")) {
		t.Error("the host's addresses are not the kernel's")
	}
}

// TestElsewhere: what is local to another namespace is not dialled from here, and
// of a namespace that nobody knows nothing is.
func TestElsewhere(t *testing.T) {
	o, err := newOwn(1, nil)
	if err != nil {
		t.Fatal(err)
	}
	o.locals.set(2, []netip.Prefix{netip.MustParsePrefix("10.0.0.2/32"), netip.MustParsePrefix("fd00::/64")})
	for _, c := range []struct {
		netns uint64
		addr  string
		want  bool
	}{
		{1, "127.0.0.1", false}, {1, "10.0.0.2", false},
		{2, "127.0.0.1", true}, {2, "127.9.9.9", true}, {2, "::1", true}, {2, "0.0.0.0", true}, {2, "::", true},
		{2, "::ffff:127.0.0.1", true}, {2, "10.0.0.2", true}, {2, "::ffff:10.0.0.2", true}, {2, "fd00::7", true},
		{2, "10.0.0.1", false}, {2, "198.51.100.7", false},
		{3, "198.51.100.7", true},
	} {
		if got := o.Elsewhere(c.netns, netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("namespace %d, %s: %v", c.netns, c.addr, got)
		}
	}
	o.locals.forget(2)
	if !o.Elsewhere(2, netip.MustParseAddr("198.51.100.7")) {
		t.Error("a namespace that was closed is still known")
	}
}
