package outside

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Wire sees every packet that comes out of a host's cable, whoever sent it.
type Wire struct {
	t      testing.TB
	canary string

	mu   sync.Mutex
	seen []Packet
	// canaries are the source ports of the packets with which the test itself asks
	// whether all before them have been seen, and which have been.
	canaries map[int]bool
}

// A Packet is described in a line. Its source port is 0 where it has none.
type Packet struct {
	Text   string
	Source int
}

// Tap listens on an interface of the namespace far, the internet's end of the cable.
// canary is an address and UDP port there on which nothing listens.
func Tap(t testing.TB, far *os.File, name, canary string) *Wire {
	t.Helper()
	w := &Wire{t: t, canary: canary, canaries: make(map[int]bool)}
	fd := -1
	err := In(far, func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		cable, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		return errors.Join(
			// Packets come in bursts.
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}), Ifindex: cable.Index}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
	})
	if err != nil {
		t.Fatalf("tap: %v", err)
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
			w.note(Describe(buf[:n]))
		}
	}()
	t.Cleanup(func() { close(stop); <-done; unix.Close(fd) })
	return w
}

func (w *Wire) note(p Packet) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case p.Text == "":
	case strings.HasSuffix(p.Text, "> "+w.canary):
		w.canaries[p.Source] = true
	default:
		w.seen = append(w.seen, p)
	}
}

// Packets gives every packet since the last call: those that left before the call
// are among them. near is the host's namespace.
func (w *Wire) Packets(near *os.File) []Packet {
	w.t.Helper()
	var canaries []*net.UDPConn
	defer func() {
		for _, c := range canaries {
			c.Close()
		}
	}()
	// A packet waits in the backlog of the processor on which it was sent (net/core/dev.c,
	// enqueue_to_backlog): what is behind it has to be sent there, too.
	err := In(near, func() error {
		return onEachCPU(func() error {
			c, err := net.Dial("udp4", w.canary)
			if err != nil {
				return err
			}
			canaries = append(canaries, c.(*net.UDPConn))
			w.mu.Lock()
			delete(w.canaries, port(c))
			w.mu.Unlock()
			_, err = c.Write([]byte("canary"))
			return err
		})
	})
	if err != nil {
		w.t.Errorf("canary: %v", err)
	}
	for deadline := time.Now().Add(30 * time.Second); !w.sees(canaries); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatal("the wire does not show the packet behind all others")
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

// sees reports whether the packets of all these sockets have been seen.
func (w *Wire) sees(canaries []*net.UDPConn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range canaries {
		if !w.canaries[port(c)] {
			return false
		}
	}
	return true
}

func port(c net.Conn) int { return c.LocalAddr().(*net.UDPAddr).Port }
