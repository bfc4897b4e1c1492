package keeper

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestListens: a listener that somebody shut down is none.
func TestListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !listens(f) {
		t.Error("a listener does not listen")
	}
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_RD) })
	if err != nil {
		t.Fatal(err)
	}
	if listens(f) {
		t.Error("one that was shut down listens")
	}
}
