package netns

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A transport without a name stays apart from all others.
func TestProtocolName(t *testing.T) {
	for p, want := range map[int]string{
		unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_UDPLITE: "udplite", unix.IPPROTO_MPTCP: "mptcp",
		unix.IPPROTO_ICMP: "ping", unix.IPPROTO_ICMPV6: "ping", unix.IPPROTO_SCTP: "sctp", unix.IPPROTO_RAW: "raw", 253: "ip-253",
	} {
		if got := ProtocolName(p); got != want {
			t.Errorf("protocol %d is %q, want %q", p, got, want)
		}
	}
}
