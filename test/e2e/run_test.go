package e2e

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A daemon is `sallyport run` on a host.
type daemon struct {
	h      *host
	cmd    *exec.Cmd
	pid    int
	stderr *syncBuffer
	ended  chan struct{}
}

// startDaemon starts `sallyport run` with a configuration and waits until it is
// ready.
func (h *host) startDaemon(conf string) *daemon {
	h.t.Helper()
	h.write("/srv/daemon/policy.yaml", conf)
	args := []string{"run", "--config", "/srv/daemon/policy.yaml"}
	if h.locks != "" {
		args = append(args, "--locks", h.locks)
	}
	d := &daemon{h: h, cmd: h.sallyport(args...), stderr: &syncBuffer{}, ended: make(chan struct{})}
	d.cmd.Stderr = d.stderr
	if err := d.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	d.pid = d.cmd.Process.Pid
	go func() { d.cmd.Wait(); close(d.ended) }()
	h.t.Cleanup(func() {
		d.stop()
		if h.t.Failed() {
			h.t.Logf("run said: %s", d.stderr)
		}
		// The gate stays shut after a stop; nothing may stay behind a test.
		if r := h.run(h.sallyport("teardown", "--stop", "--config", "/srv/daemon/policy.yaml")); r.code != 0 {
			h.t.Errorf("teardown: %v", r)
		}
	})
	for start := time.Now(); !slices.Contains(strings.Split(d.stderr.String(), "\n"), "ready"); {
		select {
		case <-d.ended:
			h.t.Fatalf("run ended: %s", d.stderr)
		case <-time.After(5 * time.Millisecond):
		}
		if late(start, 15*time.Second) {
			h.t.Fatalf("run is not ready: %s", d.stderr)
		}
	}
	return d
}

// stop ends the daemon and waits for it.
func (d *daemon) stop() {
	d.h.t.Helper()
	d.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(40 * time.Second):
		d.cmd.Process.Signal(unix.SIGQUIT) // it says what its goroutines wait for
		<-d.ended
		d.h.t.Errorf("run did not stop within 40 s: %s", d.stderr)
	}
}

// A syncBuffer is a buffer that one goroutine fills and another reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
