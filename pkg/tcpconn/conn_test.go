package tcpconn

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair gives both ends of a connection, the second one as it comes.
func pair(t testing.TB) (*Conn, *net.TCPConn) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	b, err := ln.AcceptTCP()
	// Somebody else of the host may have tried the port.
	for err == nil && b.RemoteAddr().String() != a.LocalAddr().String() {
		b.Close()
		b, err = ln.AcceptTCP()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	c, err := New(a)
	if err != nil {
		t.Fatal(err)
	}
	return c, b
}

// await waits until poll(2) tells of an event, without taking it from the connection.
func await(t testing.TB, c *net.TCPConn, event int16) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		fds := []unix.PollFd{{Events: event}}
		if err := raw.Control(func(fd uintptr) { fds[0].Fd = int32(fd); unix.Poll(fds, 0) }); err != nil {
			t.Fatal(err)
		}
		if fds[0].Revents&event != 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("event %#x does not come", event)
		}
	}
}

// TestBulk: more than any socket buffer holds, both ways at once, with reads
// and writes that have to wait.
func TestBulk(t *testing.T) {
	c, peer := pair(t)
	content := make([]byte, 32<<20)
	rand.Read(content)
	errs := make(chan error, 3)
	go func() {
		_, err := c.Write(content)
		errs <- errors.Join(err, c.CloseWrite())
	}()
	go func() {
		got, err := io.ReadAll(peer)
		if err == nil && !bytes.Equal(got, content) {
			err = errors.New("the peer got something else")
		}
		errs <- err
	}()
	go func() {
		_, err := peer.Write(content)
		errs <- errors.Join(err, peer.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	for range 3 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestErrors: every error is the one that *net.TCPConn gives in the same place.
func TestErrors(t *testing.T) {
	past := time.Unix(1, 0)
	cases := []struct {
		name  string
		setup func(c *net.TCPConn, peer *net.TCPConn)
		do    func(c net.Conn) error
	}{
		{"read at the end", func(_, peer *net.TCPConn) { peer.Close() }, read},
		{"read after a reset", func(c, peer *net.TCPConn) { peer.SetLinger(0); peer.Close(); await(t, c, unix.POLLHUP) }, read},
		{"write after a reset", func(c, peer *net.TCPConn) { peer.SetLinger(0); peer.Close(); await(t, c, unix.POLLHUP) }, write},
		{"read past the deadline", func(c, _ *net.TCPConn) { c.SetReadDeadline(past) }, read},
		{"write past the deadline", func(c, _ *net.TCPConn) { c.SetWriteDeadline(past) }, write},
		{"deadline while waiting", func(c, _ *net.TCPConn) { c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)) }, read},
		{"read closed", func(c, _ *net.TCPConn) { c.Close() }, read},
		{"write closed", func(c, _ *net.TCPConn) { c.Close() }, write},
		{"empty read at the end", func(_, peer *net.TCPConn) { peer.Close() }, func(c net.Conn) error { _, err := c.Read(nil); return err }},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c, peer := pair(t)
			d, dpeer := pair(t)
			tc.setup(c.TCPConn, peer)
			tc.setup(d.TCPConn, dpeer)
			got, want := tc.do(c), tc.do(d.TCPConn)
			if (got == nil) != (want == nil) || (got == io.EOF) != (want == io.EOF) {
				t.Fatalf("%v, want %v", got, want)
			}
			for _, target := range []error{os.ErrDeadlineExceeded, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
				if errors.Is(got, target) != errors.Is(want, target) {
					t.Errorf("errors.Is(%v): %v, want as %v", target, got, want)
				}
			}
			var g, w *net.OpError
			if errors.As(got, &g) != errors.As(want, &w) || g != nil && (g.Op != w.Op || g.Net != w.Net || g.Timeout() != w.Timeout() || g.Temporary() != w.Temporary()) {
				t.Errorf("%#v, want %#v", g, w)
			}
		})
	}
}

func read(c net.Conn) error {
	_, err := c.Read(make([]byte, 8))
	return err
}

func write(c net.Conn) error {
	_, err := c.Write([]byte("12345678"))
	return err
}

// TestInterrupted: a deadline that is set while a read waits ends it, and the
// connection goes on after it was cleared.
func TestInterrupted(t *testing.T) {
	c, peer := pair(t)
	done := make(chan error, 1)
	go func() { done <- read(c) }()
	time.Sleep(10 * time.Millisecond)
	c.SetReadDeadline(time.Unix(1, 0))
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("interrupted read: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	peer.Write([]byte("x"))
	if err := read(c); err != nil {
		t.Fatal(err)
	}
}

// TestSilent: whatever the peer does ends the silence, and asking takes nothing
// from a connection that is silent.
func TestSilent(t *testing.T) {
	for name, speak := range map[string]func(*net.TCPConn){
		"data":  func(peer *net.TCPConn) { peer.Write([]byte("HTTP/1.1 200 OK\r\n")) },
		"end":   func(peer *net.TCPConn) { peer.CloseWrite() },
		"reset": func(peer *net.TCPConn) { peer.SetLinger(0); peer.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := pair(t)
			for range 3 {
				if !c.Silent(c) {
					t.Fatal("not silent, but nobody has spoken")
				}
			}
			// It must still be possible to wait.
			go func() {
				time.Sleep(10 * time.Millisecond)
				peer.Write([]byte("y"))
			}()
			if err := read(c); err != nil || !c.Silent(c) {
				t.Fatalf("after an answer: %v", err)
			}
			speak(peer)
			deadline := time.Now().Add(time.Minute)
			for c.Silent(c) {
				if time.Now().After(deadline) {
					t.Fatal("still silent")
				}
			}
		})
	}
}

// TestSilentInterrupted: who interrupted a connection does not want it used.
func TestSilentInterrupted(t *testing.T) {
	c, _ := pair(t)
	c.SetDeadline(time.Unix(1, 0))
	if c.Silent(c) {
		t.Error("an interrupted connection is taken for a good one")
	}
}

// TestSilentBelowAnotherLayer: bytes that a layer took and did not give on end
// the silence too.
func TestSilentBelowAnotherLayer(t *testing.T) {
	c, peer := pair(t)
	l := &layer{c: c}
	if !c.Silent(l) {
		t.Fatal("not silent, but nobody has spoken")
	}
	peer.Write([]byte("part of a record"))
	deadline := time.Now().Add(time.Minute)
	for c.Silent(l) {
		if time.Now().After(deadline) {
			t.Fatal("still silent")
		}
	}
	l.held = []byte("left")
	if c.Silent(l) {
		t.Error("what the layer holds ends the silence")
	}
}

// A layer swallows what it reads, as one that waits for the end of a record.
type layer struct {
	c    *Conn
	held []byte
}

func (l *layer) Read(p []byte) (int, error) {
	if len(l.held) > 0 {
		n := copy(p, l.held)
		l.held = l.held[n:]
		return n, nil
	}
	for {
		if _, err := l.c.Read(make([]byte, 64)); err != nil {
			return 0, err
		}
	}
}

// TestYieldsAreBounded: connections whose data are always there already let each
// other run only so often, then they ask, and who has to wait for the poller
// begins the count anew.
func TestYieldsAreBounded(t *testing.T) {
	var shared Sockets
	a, peer := pair(t)
	c, err := shared.New(a.TCPConn)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1)
	for i := range 2 * maxYields {
		peer.Write(p)
		await(t, a.TCPConn, unix.POLLIN)
		c.Write(p)
		if _, err := c.Read(p); err != nil {
			t.Fatal(err)
		}
		if n := shared.yields.Load(); n > maxYields {
			t.Fatalf("%d yields after %d reads", n, i)
		}
	}
	if n := shared.yields.Load(); n != maxYields {
		t.Errorf("%d yields without a wait, want %d", n, maxYields)
	}
	// On a busy host the reader may come so late that it does not have to wait.
	for pause := 10 * time.Millisecond; shared.yields.Load() != 0 && pause < 10*time.Second; pause *= 2 {
		done := make(chan error, 1)
		go func() { done <- read(c) }()
		time.Sleep(pause)
		peer.Write(p)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n := shared.yields.Load(); n != 0 {
		t.Errorf("%d yields after a wait", n)
	}
}

// TestAllocations: neither direction allocates.
func TestAllocations(t *testing.T) {
	c, peer := pair(t)
	go io.Copy(peer, peer)
	p := make([]byte, 64)
	if n := testing.AllocsPerRun(100, func() {
		c.Write(p)
		io.ReadFull(c, p)
		if !c.Silent(c) {
			t.Error("not silent")
		}
	}); n > 0 {
		t.Errorf("%v allocations for a round trip", n)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	for name, wrap := range map[string]func(*Conn) net.Conn{
		"socket": func(c *Conn) net.Conn { return c },
		"net":    func(c *Conn) net.Conn { return c.TCPConn },
	} {
		b.Run(name, func(b *testing.B) {
			c, peer := pair(b)
			go io.Copy(peer, struct{ io.Reader }{peer})
			p := make([]byte, 1024)
			conn := wrap(c)
			b.ReportAllocs()
			for b.Loop() {
				conn.Write(p)
				io.ReadFull(conn, p)
			}
		})
	}
}
