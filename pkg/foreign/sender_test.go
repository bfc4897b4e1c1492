package foreign

import (
	"fmt"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/workload"
)

// socketPair gives a pair of unix sockets.
func socketPair(t *testing.T, kind int) (pair [2]int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func sendDescriptors(t *testing.T, to, flags int, fds ...int) {
	t.Helper()
	if err := unix.Sendmsg(to, []byte{1}, unix.UnixRights(fds...), nil, flags); err != nil {
		t.Fatal(err)
	}
}

// sweepFor sweeps a share now and then and gives all that was found. What has to come
// of it it waits for.
func sweepFor(s *Sweeper, root workload.Cgroup, d time.Duration, came func(all []Found) bool) (all []Found) {
	begin := time.Now()
	for {
		found, _ := s.Sweep([]Share{{Root: root}}, 2*time.Second)
		all = append(all, found...)
		if took := time.Since(begin); took >= time.Minute || took >= d && came(all) {
			return all
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func anyway([]Found) bool { return true }

// until calls f on another goroutine over and over, until the test ends.
func until(t *testing.T, f func()) {
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			f()
		}
	}()
	t.Cleanup(func() { stop.Store(true); <-done })
}

// TestSendersEndNobody: whatever who can connect to a workload sends, and does with
// it, the workload lives on; what nobody could look into is gone.
func TestSendersEndNobody(t *testing.T) {
	const patience = 2*doubtFor + time.Second
	for _, c := range []struct {
		name string
		kind int
		// send has the client's end of a pair of that kind. What it gives is true
		// when something came of it; nil is always.
		send    func(t *testing.T, to int) (came func() bool)
		emptied bool
	}{
		{"urgent data", unix.SOCK_STREAM, func(t *testing.T, to int) (came func() bool) {
			sendDescriptors(t, to, unix.MSG_OOB, 0)
			return nil
		}, true},
		{"more than is looked through", unix.SOCK_STREAM, func(t *testing.T, to int) (came func() bool) {
			filler := socketPair(t, unix.SOCK_DGRAM)
			defer closeAll(filler[:])
			var inner []int
			for range 65 {
				u := socketPair(t, unix.SOCK_STREAM)
				for range 16 {
					sendDescriptors(t, u[0], 0, slices.Repeat([]int{filler[0]}, maxSCM)...)
				}
				unix.Close(u[0])
				inner = append(inner, u[1])
			}
			sendDescriptors(t, to, 0, inner...)
			closeAll(inner)
			return nil
		}, true},
		{"an inner socket whose offset moves", unix.SOCK_STREAM, func(t *testing.T, to int) (came func() bool) {
			u := socketPair(t, unix.SOCK_STREAM)
			t.Cleanup(func() { closeAll(u[:]) })
			for range 250 {
				sendDescriptors(t, u[0], unix.MSG_DONTWAIT, 0)
			}
			sendDescriptors(t, to, 0, u[1])
			until(t, func() { _ = unix.SetsockoptInt(u[1], unix.SOL_SOCKET, unix.SO_PEEK_OFF, 1<<30) })
			return nil
		}, false},
		{"a flood of what nothing can destroy", unix.SOCK_DGRAM, func(t *testing.T, to int) (came func() bool) {
			packet, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(packet) })
			var shut atomic.Bool
			for range 16 {
				until(t, func() {
					if unix.Sendmsg(to, []byte{1}, unix.UnixRights(packet), nil, unix.MSG_DONTWAIT) == unix.EPIPE {
						shut.Store(true)
						time.Sleep(10 * time.Millisecond)
					}
				})
			}
			return shut.Load
		}, false},
		{"what nothing can destroy, two queues deep", unix.SOCK_STREAM, func(t *testing.T, to int) (came func() bool) {
			packet, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			inner, middle := socketPair(t, unix.SOCK_STREAM), socketPair(t, unix.SOCK_STREAM)
			sendDescriptors(t, inner[0], 0, packet)
			sendDescriptors(t, middle[0], 0, inner[1])
			sendDescriptors(t, to, 0, middle[1])
			closeAll([]int{packet, inner[0], inner[1], middle[0], middle[1]})
			// Whoever sent the inner ones can keep them from being emptied: what ends is the
			// connection that they came by.
			t.Cleanup(func() {
				if err := unix.Sendmsg(to, []byte{1}, nil, nil, 0); err != unix.EPIPE {
					t.Errorf("sending on: %v, want that the connection has ended", err)
				}
			})
			return nil
		}, true},
		{"sockets that linger", unix.SOCK_STREAM, sendLingering, false},
	} {
		t.Run(c.name, func(t *testing.T) {

			tree, root := newTree(t)
			pair := socketPair(t, c.kind)
			h := startHolder(t, root, pair[1])
			unix.Close(pair[1])
			t.Cleanup(func() { unix.Close(pair[0]) })
			came := c.send(t, pair[0])
			s := New(Options{Tree: tree, Tagged: func(uint64) bool { return true }, Decided: func(int) (bool, error) { return true, nil }})
			defer s.Close()
			found := sweepFor(s, root, patience, func(all []Found) bool {
				return (len(all) > 0 || !c.emptied) && (came == nil || came())
			})
			if came != nil && !came() {
				t.Error("the senders go on")
			}
			if slices.ContainsFunc(found, func(f Found) bool { return f.Outcome != Emptied }) {
				t.Errorf("found %+v", found)
			}
			if c.emptied && len(found) == 0 {
				t.Error("the queue was left as it is")
			}
			if err := h.Process.Signal(unix.Signal(0)); err != nil {
				t.Errorf("the workload: %v", err)
			}
		})
	}
}

// sendLingering sends a queue with a socket that lingers, and takes it out again
// while it may be looked at, over and over: closing ours is the last then.
func sendLingering(t *testing.T, to int) (came func() bool) {
	u := socketPair(t, unix.SOCK_STREAM)
	sendDescriptors(t, to, 0, u[1])
	filler := socketPair(t, unix.SOCK_DGRAM)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); closeAll(u[:]); closeAll(filler[:]) })
	one := make([]byte, 1)
	until(t, func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return
		}
		if far, err := l.Accept(); err == nil {
			t.Cleanup(func() { far.Close() }) // it never reads
		}
		f, err := c.(*net.TCPConn).File()
		c.Close()
		if err != nil {
			return
		}
		fd, err := unix.Dup(int(f.Fd()))
		f.Close()
		if err != nil {
			return
		}
		for full := make([]byte, 1<<20); err == nil; {
			_, err = unix.SendmsgN(fd, full, nil, nil, unix.MSG_DONTWAIT)
		}
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 60})
		_ = unix.Sendmsg(u[0], one, unix.UnixRights(fd), nil, 0)
		for range 15 {
			_ = unix.Sendmsg(u[0], one, unix.UnixRights(slices.Repeat([]int{filler[0]}, maxSCM)...), nil, 0)
		}
		time.Sleep(25 * time.Millisecond)
		_, _, _, _, err = unix.Recvmsg(u[1], one, nil, unix.MSG_DONTWAIT)
		go unix.Close(fd)
		for n := 1; err == nil && n > 0; {
			n, _, _, _, err = unix.Recvmsg(u[1], one, nil, unix.MSG_DONTWAIT)
		}
	})
	return nil
}

// TestCloseLingering: a socket that lingers is closed at once, though ours is the
// last descriptor of it.
func TestCloseLingering(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	for full := make([]byte, 1<<20); err == nil; {
		_, err = unix.SendmsgN(fd, full, nil, nil, unix.MSG_DONTWAIT)
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 60}); err != nil {
		t.Fatal(err)
	}
	sh := newShare(New(Options{}), Share{})
	start := time.Now()
	sh.closeTaken(fd)
	if len(sh.lingering) != 1 {
		t.Fatalf("%d sockets are left for later, want 1", len(sh.lingering))
	}
	sh.closeLingering()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("closing took %s", took)
	}
	// The far end learns of it once it has read what was sent.
	_ = far.SetReadDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 1<<20)
	for err = nil; err == nil; {
		_, err = far.Read(buf)
	}
	if err.Error() != "EOF" {
		t.Errorf("the far end: %v", err)
	}
	if n := sh.closes.waiting.Load(); n != 0 {
		t.Errorf("%d closes wait", n)
	}
}

// TestLocksHideNothing: a workload's locks on its own unix socket are told before
// what is in its queue.
func TestLocksHideNothing(t *testing.T) {
	pair := socketPair(t, unix.SOCK_STREAM)
	defer closeAll(pair[:])
	sendDescriptors(t, pair[0], 0, 0, 0)
	var read tables
	for _, locks := range []int{0, 1, 12, 100, 2000} {
		for i := range locks {
			if err := unix.FcntlFlock(uintptr(pair[1]), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: int64(10 * i), Len: 1}); err != nil {
				t.Fatal(err)
			}
		}
		if n := read.inFlight(unix.AT_FDCWD, ownInfo(pair[1])); n != 2 {
			t.Errorf("with %d locks %d descriptors in flight, want 2", locks, n)
		}
	}
	// The kernel walks over all that are there for each: long numbers fill more with fewer.
	for i := range 13_000 {
		_ = unix.FcntlFlock(uintptr(pair[1]), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 1<<62 - int64(10*i), Len: 1})
	}
	if n := read.inFlight(unix.AT_FDCWD, ownInfo(pair[1])); n <= maxInFlight {
		t.Errorf("with more locks than are read %d descriptors in flight: it passes for one that can be looked into", n)
	}
}

// TestEachQueueItsTime: a connection with descriptors that nobody has accepted has
// its time to be accepted, whatever comes to another listener.
func TestEachQueueItsTime(t *testing.T) {
	tree, root := newTree(t)
	listen := func(n int) (int, *unix.SockaddrUnix) {
		a := &unix.SockaddrUnix{Name: fmt.Sprintf("@foreign-%d-%d", os.Getpid(), n)}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, a)
		}
		if err == nil {
			err = unix.Listen(fd, 100)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd, a
	}
	connect := func(a *unix.SockaddrUnix) int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, a)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		sendDescriptors(t, fd, 0, 0)
		return fd
	}
	one, first := listen(1)
	other, second := listen(2)
	startHolder(t, root, one, other)
	s := newSweeper(tree)
	defer s.Close()
	var found []Found
	for i := 0; i < 6 || len(found) == 0 && i < 60; i++ {
		connect(first)
		found = append(found, sweepFor(s, root, 500*time.Millisecond, anyway)...)
	}
	if len(found) == 0 {
		t.Error("what nobody accepts stays")
	}
	for range 20 {
		connect(first)
		begin := time.Now()
		innocent := connect(second)
		sweepFor(s, root, 500*time.Millisecond, anyway)
		ends := []unix.PollFd{{Fd: int32(innocent), Events: unix.POLLIN}}
		// A signal ends poll(2) with EINTR where nothing was there yet.
		n, err := unix.Poll(ends, 0)
		if time.Since(begin) >= doubtFor {
			continue // on a busy host: its time was over
		}
		if n > 0 || err != nil && err != unix.EINTR {
			t.Errorf("a connection was ended half a second after it was made: %#x (%v)", ends[0].Revents, err)
		}
		return
	}
	t.Error("no connection was looked at in its time")
}

// TestPeeksAreBounded: what is beyond the queues of one look waits, and is emptied.
func TestPeeksAreBounded(t *testing.T) {
	tree, root := newTree(t)
	pair := socketPair(t, unix.SOCK_STREAM)
	defer closeAll(pair[:])
	sendDescriptors(t, pair[0], 0, 0)
	c := startHolder(t, root, pair[1])
	h, err := openHolder(tree, root, c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	sh := newShare(newSweeper(tree), Share{Root: root})
	sh.patience = time.Minute
	e := entry{tid: h.pid, fd: 3, inode: uint32(inode(t, pair[1]))}
	for peeks, want := range map[int]int{0: 0, maxPeeks: 1} {
		l := newLook(sh)
		l.peeks = peeks
		l.until = time.Now().Add(time.Minute)
		if err := l.queue(h, e, pair[1]); err != nil {
			t.Error(err)
		}
		if len(l.stuffing) != want {
			t.Errorf("after %d queues %d wait to be emptied, want %d", peeks, len(l.stuffing), want)
		}
	}
	h.close()
}
