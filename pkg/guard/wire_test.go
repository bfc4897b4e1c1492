package guard

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sallyport/test/outside"
)

// A tap sees every frame that comes into a namespace by eth0.
type tap struct {
	fd     int
	mu     sync.Mutex
	frames [][]byte
	done   chan struct{}
}

func newTap(t testing.TB, ns *os.File) *tap {
	t.Helper()
	tp := &tap{done: make(chan struct{})}
	const all = 0x0300 // ETH_P_ALL in network order
	do(t, ns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		// Without a protocol it hears of no interface before it is bound to one.
		if tp.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(tp.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(tp.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20000}); err != nil {
			return err
		}
		return unix.Bind(tp.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	})
	stop := make(chan struct{})
	go func() {
		defer close(tp.done)
		buf := make([]byte, 65536)
		for {
			n, from, err := unix.Recvfrom(tp.fd, buf, 0)
			if err == nil {
				if sa, ok := from.(*unix.SockaddrLinklayer); ok && sa.Pkttype != unix.PACKET_OUTGOING {
					tp.mu.Lock()
					tp.frames = append(tp.frames, bytes.Clone(buf[:n]))
					tp.mu.Unlock()
				}
				continue
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-tp.done
		unix.Close(tp.fd)
	})
	return tp
}

// seen gives the frames, of all kinds, for which ok holds.
func (tp *tap) seen(ok func(frame []byte) bool) (found [][]byte) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	for _, f := range tp.frames {
		if ok(f) {
			found = append(found, f)
		}
	}
	return found
}

// traffic holds for IP frames other than neighbour discovery and multicast
// listener reports, which the kernel sends by itself.
func traffic(f []byte) bool {
	if len(f) < 15 {
		return false
	}
	switch uint16(f[12])<<8 | uint16(f[13]) {
	case unix.ETH_P_IP:
		return true
	case unix.ETH_P_IPV6:
		next := f[14+6]
		if next == unix.IPPROTO_HOPOPTS {
			return false
		}
		if next == unix.IPPROTO_ICMPV6 && len(f) > 54 && f[54] >= 133 && f[54] <= 136 {
			return bytes.Contains(f, []byte(secret))
		}
		return true
	default:
		return false
	}
}

// said holds for traffic but for what the kernel answers for a socket that is gone, of
// which the far end does not know: a TCP segment that resets and has no data.
func said(f []byte) bool { return traffic(f) && !bareReset(f) }

func bareReset(f []byte) bool {
	const ip, header4, header6, header = 14, 20, 40, 20
	var length int // of the segment
	var tcp []byte
	switch {
	case len(f) >= ip+header4+header && f[ip] == 0x45 && f[ip+9] == unix.IPPROTO_TCP:
		length, tcp = (int(f[ip+2])<<8|int(f[ip+3]))-header4, f[ip+header4:]
	case len(f) >= ip+header6+header && f[ip]>>4 == 6 && f[ip+6] == unix.IPPROTO_TCP:
		length, tcp = int(f[ip+4])<<8|int(f[ip+5]), f[ip+header6:]
	default:
		return false
	}
	return tcp[13]&tcpRST != 0 && length == int(tcp[12]>>4)*4
}

// settle waits until marker frames sent after everything else have passed, one behind
// what waits in the backlog of each processor, so
// that "nothing came" is not "nothing came yet".
func (tp *tap) settle(t testing.TB, from *os.File) {
	t.Helper()
	marker := fmt.Sprintf("marker-%d", time.Now().UnixNano())
	sent := 0
	err := outside.OnEachCPU(from, func() error {
		c, err := net.Dial("udp4", netip.AddrPortFrom(there4, 9).String())
		if err != nil {
			return err
		}
		defer c.Close()
		sent++
		_, err = c.Write([]byte(marker))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "marker frames", func() bool {
		return len(tp.seen(func(f []byte) bool { return bytes.Contains(f, []byte(marker)) })) == sent
	})
	tp.mu.Lock()
	defer tp.mu.Unlock()
	kept := tp.frames[:0]
	for _, f := range tp.frames {
		if !bytes.Contains(f, []byte("marker-")) {
			kept = append(kept, f)
		}
	}
	tp.frames = kept
}

// spoofSYN sends, from outside, a TCP SYN whose source address is that of the
// host itself.
func spoofSYN(t testing.TB, w world, host netip.Addr, port uint16) {
	t.Helper()
	var destination, source net.HardwareAddr
	var index int
	do(t, w.host, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		destination = link.Attrs().HardwareAddr
		return nil
	})
	do(t, w.outside, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		source, index = link.Attrs().HardwareAddr, link.Attrs().Index
		return nil
	})
	tcp := make([]byte, 20)
	tcp[0], tcp[1] = 0x13, 0x88
	tcp[2], tcp[3] = byte(port>>8), byte(port)
	tcp[12], tcp[13] = 5<<4, tcpSYN
	addr := host.As16()
	sum := uint32(len(tcp) + unix.IPPROTO_TCP)
	for _, part := range [][]byte{addr[:], addr[:], tcp} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(part[i])<<8 | uint32(part[i+1])
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	tcp[16], tcp[17] = byte(^sum>>8), byte(^sum)
	frame := append(append(bytes.Clone(destination), source...), 0x86, 0xdd)
	frame = append(frame, 0x60, 0, 0, 0, 0, byte(len(tcp)), unix.IPPROTO_TCP, 64)
	frame = append(append(append(frame, addr[:]...), addr[:]...), tcp...)
	do(t, w.outside, func() error {
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return unix.Sendto(s, frame, 0, &unix.SockaddrLinklayer{Ifindex: index})
	})
}
