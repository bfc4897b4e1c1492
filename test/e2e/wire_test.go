package e2e

import (
	"encoding/binary"
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
	seen []string
	// canaries counts the packets with which the test itself asks whether all
	// before them have been seen.
	canaries int
}

// tap listens on the internet's end of the cable.
func (h *host) tap() *wire {
	h.t.Helper()
	w := &wire{h: h}
	fd := -1
	inNetns(h.t, h.net.ns, func() {
		var err error
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			h.t.Errorf("tap: %v", err)
			return
		}
		cable, err := net.InterfaceByName("ve0")
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}), Ifindex: cable.Index})
		}
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
		}
		if err != nil {
			h.t.Errorf("tap: %v", err)
		}
	})
	if fd < 0 {
		h.t.FailNow()
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
			w.packet(buf[:n])
		}
	}()
	h.t.Cleanup(func() { close(stop); <-done; unix.Close(fd) })
	return w
}

// canary is a UDP port of the internet on which nothing listens.
const canary = originV4 + ":9"

func (w *wire) packet(b []byte) {
	text := describe(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case text == "":
	case strings.HasSuffix(text, "> "+canary):
		w.canaries++
	default:
		w.seen = append(w.seen, text)
	}
}

// describe gives a line for a packet, "" for what the kernel itself says to its
// neighbours, and for a bare RST: the kernel's answer for a socket that is gone.
func describe(b []byte) string {
	if len(b) < 20 {
		return ""
	}
	var src, dst netip.Addr
	var proto byte
	var rest []byte
	note := ""
	switch {
	case b[0]>>4 == 4:
		head := int(b[0]&15) * 4
		if len(b) < head {
			return "short"
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		proto, rest = b[9], b[head:]
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
			return ""
		}
	default:
		return "" // ARP
	}
	switch {
	case proto == unix.IPPROTO_TCP && len(rest) >= 20:
		if rest[13]&4 != 0 && len(rest) == int(rest[12]>>4)*4 {
			return ""
		}
		fallthrough
	case proto == unix.IPPROTO_UDP && len(rest) >= 8:
		name := map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[proto]
		return fmt.Sprintf("%s%s %s > %s", name, note,
			netip.AddrPortFrom(src, binary.BigEndian.Uint16(rest)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(rest[2:])))
	case proto == unix.IPPROTO_UDPLITE && len(rest) >= 8:
		return fmt.Sprintf("udplite %s > %s", netip.AddrPortFrom(src, binary.BigEndian.Uint16(rest)), netip.AddrPortFrom(dst, binary.BigEndian.Uint16(rest[2:])))
	}
	return fmt.Sprintf("protocol %d%s %s > %s", proto, note, src, dst)
}

// packets gives every packet since the last call: those that left before the
// call are among them.
func (w *wire) packets() []string {
	w.h.t.Helper()
	w.mu.Lock()
	want := w.canaries + 1
	w.mu.Unlock()
	inNetnsOf(w.h.t, w.h, func() {
		c, err := net.Dial("udp4", canary)
		if err != nil {
			w.h.t.Errorf("canary: %v", err)
			return
		}
		defer c.Close()
		c.Write([]byte("canary"))
	})
	eventually(w.h.t, 3*time.Second, "the packet behind all others", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.canaries >= want
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

// silent fails if anything has left the host since the last look.
func (w *wire) silent(what string) {
	w.h.t.Helper()
	if seen := w.packets(); len(seen) > 0 {
		w.h.t.Errorf("%s: %d packets left the host, the first %q", what, len(seen), seen[0])
	}
}
