package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

// attempts connects again and again, sends, and says at the end how often it tried,
// and how often something answered that was not us.
const attempts = `
import socket, sys, time
end, tries, answered = time.time() + 600, 0, 0
while time.time() < end:
    s = socket.socket()
    s.settimeout(2)
    try:
        s.connect(("` + originV4 + `", 80))
        s.send(b"GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n")
        answered += s.recv(12).endswith(b" 200")
    except OSError: pass
    s.close()
    tries += 1
    print(tries, answered, flush=True)
    time.sleep(0.002)
`

// TestOtherLayout: a daemon that finds programs and maps of another version, or of
// another layout, puts its own beside them before those go: nothing gets out
// meanwhile, and it says what it did.
func TestOtherLayout(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"another version": `cd /sys/fs/bpf/sallyport/*/; for v in v*; do mv $v v0; done`,
		"another layout": `cd /sys/fs/bpf/sallyport/*/v*/maps; rm config
bpftool map create "$PWD/config" type array key 4 value 8 entries 3 name config`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			config := h.config("timeouts: { drain: 1s }\n") // no rule: nothing is let through
			d := h.startDaemon(config)
			lines := linesOf(outside.Start(t, h.inside("mover", nobody, "python3", "-u", "-c", attempts)).Out)
			var made, taken atomic.Int64
			go func() {
				for line := range lines {
					var tries, answered int64
					fmt.Sscan(line, &tries, &answered)
					taken.Store(answered)
					made.Store(tries)
				}
			}()
			// try waits until so many more attempts were made from now on.
			try := func(more int64) (tries, answered int64) {
				t.Helper()
				last := made.Load() + more
				eventually(t, time.Minute, "further attempts", func() bool { return made.Load() >= last })
				return made.Load(), taken.Load()
			}
			// What was attached of the other version must go in the end.
			programs := func() int {
				t.Helper()
				r := h.sh("bpftool -j cgroup show " + cgroupRoot() + "/" + h.slice + " | python3 -c 'import json, sys; print(len(json.load(sys.stdin)))'")
				n, err := strconv.Atoi(strings.TrimSpace(r.stdout))
				if err != nil {
					t.Fatalf("programs at the slice: %v", r)
				}
				return n
			}
			attached := programs()
			before := h.net.connections.Load()
			try(20)
			d.stop()
			try(20)
			if r := h.sh("set -e\n" + change); r.code != 0 {
				t.Fatalf("change of the pins: %v", r)
			}
			try(20)
			h.startDaemon(config)
			tries, answered := try(20)
			if n := h.net.connections.Load() - before; n != 0 || answered != 0 {
				t.Errorf("%d of %d attempts were answered, %d connections reached the origin", answered, tries, n)
			}
			if s := h.status(); !s.EnforcementActive || len(s.Problems) > 0 {
				t.Errorf("%+v", s)
			}
			h.waitAudit("what became of the other version", func(e *audit.Event) bool {
				return e.Kind == audit.Lifecycle && strings.Contains(e.Message, "programs and maps of another version replaced")
			})
			if r := h.sh("ls -d /sys/fs/bpf/sallyport/*outdated* /sys/fs/bpf/sallyport/*/v0 2>/dev/null"); r.stdout != "" {
				t.Errorf("left: %s", r.stdout)
			}
			if n := programs(); n == 0 || n != attached {
				t.Errorf("%d programs at the slice, %d before", n, attached)
			}
		})
	}
}
