package bypass

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A wire sees every packet that comes out of the host's cable, whoever sent it.
type wire struct {
	h    *host
	mu   sync.Mutex
	seen []packet
	// canaries counts the packets with which the test itself asks whether all
	// before them have been seen.
	canaries int
}

// A packet is described in a line. Its source port is 0 where it has none.
type packet struct {
	text   string
	source int
}

// canary is a UDP port of the internet on which nothing listens.
const canary = originV4 + ":9"

// tap listens on the internet's end of the cable.
func (h *host) tap() *wire {
	h.t.Helper()
	w := &wire{h: h}
	fd := -1
	err := inNetns(h.net.ns, func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		cable, err := net.InterfaceByName("ve0")
		if err != nil {
			return err
		}
		// A sweep of the table comes in bursts.
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		return errors.Join(
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}), Ifindex: cable.Index}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
	})
	if err != nil {
		h.t.Fatalf("tap: %v", err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if ll, ok := from.(*unix.SockaddrLinklayer); err != nil || !ok || ll.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			w.note(describe(buf[:n]))
		}
	}()
	h.t.Cleanup(func() { close(stop); <-done; unix.Close(fd) })
	return w
}

func (w *wire) note(p packet) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case p.text == "":
	case strings.HasSuffix(p.text, "> "+canary):
		w.canaries++
	default:
		w.seen = append(w.seen, p)
	}
}

// describe gives a line for a packet, none for what the kernel itself says to its
// neighbours, and for a bare RST: the kernel's answer for a socket that is gone.
func describe(b []byte) packet {
	if len(b) < 20 {
		return packet{}
	}
	var src, dst netip.Addr
	var proto byte
	var rest []byte
	note := ""
	switch {
	case b[0]>>4 == 4:
		head := int(b[0]&15) * 4
		if len(b) < head {
			return packet{text: "short"}
		}
		if head > 20 {
			note = " with options"
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		proto, rest = b[9], b[head:]
		if proto == unix.IPPROTO_IGMP {
			return packet{text: groupReport(rest, 4)}
		}
	case b[0]>>4 == 6 && len(b) >= 40:
		src, dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		proto, rest = b[6], b[40:]
		for len(rest) >= 8 && (proto == unix.IPPROTO_ROUTING || proto == unix.IPPROTO_HOPOPTS || proto == unix.IPPROTO_DSTOPTS) {
			size := 8 + int(rest[1])*8
			if proto == unix.IPPROTO_ROUTING {
				note = " by a routing header"
			}
			proto = rest[0]
			rest = rest[min(size, len(rest)):]
		}
		if proto == unix.IPPROTO_ICMPV6 && len(rest) > 0 && rest[0] >= 130 && rest[0] <= 143 {
			return packet{text: groupReport(rest, 16)}
		}
	default:
		return packet{} // ARP
	}
	names := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_UDPLITE: "udplite", unix.IPPROTO_SCTP: "sctp"}
	name := names[proto]
	if name == "" || len(rest) < 8 {
		return packet{text: fmt.Sprintf("protocol %d%s %s > %s", proto, note, src, dst)}
	}
	if proto == unix.IPPROTO_TCP && len(rest) >= 20 && rest[13]&4 != 0 && len(rest) == int(rest[12]>>4)*4 {
		return packet{}
	}
	if proto == unix.IPPROTO_TCP && len(rest) >= 20 {
		// The same, told that it shall stay: a keep-alive of the worker is answered for
		// a socket in time-wait, once by this way, and nobody there takes it.
		if rest[13] == 0x10 && len(rest) == int(rest[12]>>4)*4 && dst.IsLoopback() {
			return packet{}
		}
	}
	from := binary.BigEndian.Uint16(rest)
	return packet{fmt.Sprintf("%s%s %s > %s", name, note, netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(rest[2:]))), int(from)}
}

// The groups that attacks join end with their port.
var groups = map[int]netip.Prefix{4: netip.MustParsePrefix("239.1.0.0/16"), 16: netip.MustParsePrefix("ff1e::/16")}

func groupOf(size, port int) string {
	if size == 4 {
		return fmt.Sprintf("239.1.%d.%d", port>>8, port&255)
	}
	return fmt.Sprintf("ff1e::%x", port)
}

// groupReport describes the memberships that attacks had the kernel report
// (RFC 3376 section 4.2, RFC 3810 section 5.2), "" for the kernel's own.
func groupReport(b []byte, size int) (all string) {
	for at := 8; (b[0] == 0x22 || b[0] == 143) && at+4+size <= len(b); at += 4 + size {
		if group, ok := netip.AddrFromSlice(b[at+4 : at+4+size]); ok && groups[size].Contains(group) {
			all += "membership of " + group.String() + ". "
		}
	}
	return all
}

// packets gives every packet since the last call: those that left before the
// call are among them.
func (w *wire) packets() []packet {
	w.h.t.Helper()
	w.mu.Lock()
	want := w.canaries + 1
	w.mu.Unlock()
	w.h.here(func() error {
		c, err := net.Dial("udp4", canary)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("canary"))
		return err
	})
	if !within(5*time.Second, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.canaries >= want
	}) {
		w.h.t.Error("the wire does not show the packet behind all others")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}
