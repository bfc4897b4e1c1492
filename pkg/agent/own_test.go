package agent

import (
	"net/netip"
	"testing"
)

func TestOwn(t *testing.T) {
	o, err := newOwn([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:15001"), netip.MustParseAddrPort("[::1]:15001"), netip.MustParseAddrPort("0.0.0.0:9595")})
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
