package datapath_test

import (
	"net/netip"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
)

func TestSocketTypes(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	for _, tt := range []struct {
		name                   string
		family, kind, protocol int
		reason                 datapath.Reason // NoReason: allowed
	}{
		{"tcp", unix.AF_INET, unix.SOCK_STREAM, 0, datapath.NoReason},
		{"tcp by number", unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP, datapath.NoReason},
		{"udp", unix.AF_INET, unix.SOCK_DGRAM, 0, datapath.NoReason},
		{"udp by number", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP, datapath.NoReason},
		{"unix", unix.AF_UNIX, unix.SOCK_STREAM, 0, datapath.NoReason},
		{"mptcp", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, datapath.ProtocolDenied},
		{"mptcp ipv6", unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, datapath.ProtocolDenied},
		{"udp-lite", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, datapath.ProtocolDenied},
		{"ping", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP, datapath.ProtocolDenied},
		{"ping ipv6", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6, datapath.ProtocolDenied},
		{"sctp", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP, datapath.ProtocolDenied},
		{"raw", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW, datapath.RawDenied},
		{"raw tcp", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_TCP, datapath.RawDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := w.refused(max(tt.reason, 1))
			r := c.do(call{Op: "socket", Family: tt.family, Type: tt.kind, Protocol: tt.protocol})
			if tt.reason == datapath.NoReason {
				if err := r.err(); err != nil {
					t.Error(err)
				}
				return
			}
			if errno := unix.Errno(r.Errno); errno == unix.EPROTONOSUPPORT {
				t.Skip("this kernel has no such protocol") // and so nothing to refuse
			} else if errno != unix.EPERM {
				t.Fatalf("got %v, want EPERM", r.err())
			}
			if n := w.refused(tt.reason) - before; n != 1 {
				t.Errorf("%s counted %d times", tt.reason, n)
			}
			w.event(tt.reason.String(), func(e datapath.Event) bool {
				return e.Kind == datapath.Refused && e.Reason == tt.reason && e.Flow.PID == c.pid() &&
					(tt.protocol == 0 || int(e.Flow.Protocol) == tt.protocol)
			})
		})
	}
}

func TestOwnAddressesAreRefused(t *testing.T) {
	w := newWorld(t)
	c := w.spawn(w.workload("a"))
	metrics := netip.MustParseAddrPort("203.0.113.2:9595")
	if err := w.d.SetOwnAddresses([]netip.AddrPort{metrics, netip.MustParseAddrPort("0.0.0.0:9596")}); err != nil {
		t.Fatal(err)
	}
	// A direct rule does not help.
	if err := w.d.SetDirect([]datapath.DirectRule{{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Last: 65535, Protocol: datapath.TCP, Rule: "all"}}); err != nil {
		t.Fatal(err)
	}
	l := w.listeners()
	port := func(a netip.AddrPort) string { return strconv.Itoa(int(a.Port())) }
	for _, tt := range []struct {
		family, kind int
		dst          string
	}{
		{unix.AF_INET, unix.SOCK_STREAM, l.TCP4.String()},
		{unix.AF_INET, unix.SOCK_STREAM, "0.0.0.0:" + port(l.TCP4)},
		{unix.AF_INET6, unix.SOCK_STREAM, "[::ffff:127.0.0.1]:" + port(l.TCP4)},
		{unix.AF_INET6, unix.SOCK_STREAM, l.TCP6.String()},
		{unix.AF_INET6, unix.SOCK_STREAM, "[::]:" + port(l.TCP6)},
		{unix.AF_INET, unix.SOCK_STREAM, l.Probe.String()},
		{unix.AF_INET, unix.SOCK_STREAM, metrics.String()},
		{unix.AF_INET6, unix.SOCK_STREAM, "[::ffff:203.0.113.2]:9595"},
		{unix.AF_INET, unix.SOCK_STREAM, "127.0.0.1:9596"},
		{unix.AF_INET6, unix.SOCK_STREAM, "[::1]:9596"},
		{unix.AF_INET, unix.SOCK_DGRAM, l.DNS4.String()},
		{unix.AF_INET6, unix.SOCK_DGRAM, l.DNS6.String()},
	} {
		before := w.refused(datapath.OwnAddress)
		fd := c.must(call{Op: "socket", Family: tt.family, Type: tt.kind}).Value
		c.fails(call{Op: "connect", FD: fd, Addr: tt.dst}, unix.EPERM)
		want := uint64(1)
		if tt.kind == unix.SOCK_DGRAM {
			c.fails(call{Op: "sendto", FD: fd, Addr: tt.dst, Data: "x"}, unix.EPERM)
			want = 2
		}
		if n := w.refused(datapath.OwnAddress) - before; n != want {
			t.Errorf("%s: counted %d times, want %d", tt.dst, n, want)
		}
	}
	w.sealed()
}
