package keeper

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/keeper/protocol"
)

// TestProbeBelievesOnlyProof: enforcement counts as active only where both
// connections ended as they must, the flow is told truly and the guard's own
// counter rose. Whatever one of the locks can do wrong is an error.
func TestProbeBelievesOnlyProof(t *testing.T) {
	const pid = 4711
	truth := protocol.ProbeAnswer(probeCaptured, 0, pid)
	for _, c := range []struct {
		name string
		out  string
		// rejections is how much the guard's counter rises meanwhile.
		rejections uint64
		// arrives says that a connection comes through to the target.
		arrives            bool
		runErr, counterErr error
		says               string // "" where the probe succeeds
	}{
		{name: "both as they must", out: truth + "\nrefused\n", rejections: 1},
		{name: "not captured", out: "dial tcp4: i/o timeout\nrefused\n", rejections: 1, says: "the captured connection got"},
		{name: "another destination", out: protocol.ProbeAnswer(probeBlocked, 0, pid) + "\nrefused\n", rejections: 1, says: "the captured connection got"},
		{name: "another workload", out: protocol.ProbeAnswer(probeCaptured, 1, pid) + "\nrefused\n", rejections: 1, says: "the captured connection got"},
		{name: "another process", out: protocol.ProbeAnswer(probeCaptured, 0, pid+1) + "\nrefused\n", rejections: 1, says: "the captured connection got"},
		{name: "guard open", out: truth + "\nconnected\n", says: "the guard let a connection pass"},
		{name: "guard open, and the process lies", out: truth + "\nrefused\n", rejections: 1, arrives: true, says: "that the guard must reject arrived"},
		{name: "BPF refused in the guard's place", out: truth + "\noperation not permitted\n", rejections: 1, says: "the guard let a connection pass"},
		{name: "refused, but not by the guard", out: truth + "\nrefused\n", says: "but not by the guard"},
		{name: "half an answer", out: truth, rejections: 1, says: "the probe process said"},
		{name: "nothing", says: "the probe process said"},
		{name: "no process", runErr: errors.New("no processes left"), says: "no processes left"},
		{name: "no counter", out: truth + "\nrefused\n", rejections: 1, counterErr: errors.New("no such table"), says: "no such table"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var counter uint64
			p := &prober{
				to:       probed{probeCaptured, probeBlocked},
				target:   l.(*net.TCPListener),
				rejected: func() (uint64, error) { return counter, c.counterErr },
				run: func(context.Context, []*os.File) (int, string, error) {
					counter += c.rejections
					if c.arrives {
						conn, err := net.Dial("tcp4", l.Addr().String())
						if err != nil {
							t.Error(err)
							return 0, "", err
						}
						t.Cleanup(func() { conn.Close() })
						await(t, l)
					}
					return pid, c.out, c.runErr
				},
			}
			err = p.probe(t.Context())
			switch {
			case c.says == "" && err != nil:
				t.Errorf("%v", err)
			case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%v, want an error that says %q", err, c.says)
			}
		})
	}
}

// await returns when a connection stands at the listener: the one that made it hears
// earlier that it did.
func await(t *testing.T, l net.Listener) {
	t.Helper()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	for waiting, deadline := 0, time.Now().Add(30*time.Second); waiting == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error("no connection arrives")
			return
		}
		raw.Control(func(fd uintptr) { waiting, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) })
	}
}
