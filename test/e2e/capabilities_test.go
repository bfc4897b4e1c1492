package e2e

import (
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keeperCapabilities reads from the unit which capabilities the keeper keeps, in
// the words of setpriv(1).
func keeperCapabilities(t *testing.T) []string {
	t.Helper()
	unit, err := os.ReadFile("../../systemd/sallyport-keeper.service")
	if err != nil {
		t.Fatal(err)
	}
	var caps []string
	for line := range strings.Lines(string(unit)) {
		if names, ok := strings.CutPrefix(line, "CapabilityBoundingSet="); ok {
			for _, name := range strings.Fields(names) {
				caps = append(caps, strings.ToLower(strings.TrimPrefix(name, "CAP_")))
			}
		}
	}
	return caps
}

// withCapabilities is sallyport with no more than these capabilities.
func (h *host) withCapabilities(caps []string, args ...string) []string {
	return append([]string{"setpriv", "--inh-caps=-all", "--bounding-set=-all,+" + strings.Join(caps, ",+"), h.binary}, args...)
}

// sysResource is a capability that containers seldom have. Only where this test
// has it can it show that the keeper needs it.
const sysResource = "sys_resource"

// bounded reports whether this test may have a capability at all.
func bounded(capability uintptr) bool {
	has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0)
	return err == nil && has == 1
}

// keeperWork is what a keeper does that takes a capability. It returns what of it
// failed, "" where all went well.
func (h *host) keeperWork(caps []string) (failed string) {
	h.t.Helper()
	h.write(daemonConfig, h.config("mode: observe\n"))
	// A keeper finds what the lock has made.
	if r := h.run(h.sallyport("run", "--part", "lock", "--config", daemonConfig)); r.code != 0 {
		h.t.Fatalf("lock: %v", r)
	}
	cmd := h.command(h.withCapabilities(caps, "run", "--config", daemonConfig)...)
	stderr := &syncBuffer{}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	defer func() {
		cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if r := h.run(h.sallyport("teardown", "--stop", "--config", daemonConfig)); r.code != 0 {
			h.t.Errorf("teardown: %v", r)
		}
	}()
	for start := time.Now(); !slices.Contains(strings.Split(stderr.String(), "\n"), "ready"); {
		select {
		case <-ended:
			return "run ended: " + stderr.String()
		case <-time.After(5 * time.Millisecond):
		}
		if late(start, 30*time.Second) {
			return "run is not ready: " + stderr.String()
		}
	}
	for _, w := range []struct {
		what string
		cmd  []string
		want string
	}{
		{"exec", as(alice, h.execBy("curl", "-sS", "https://api.example.com/x")...), `"ok":true`},
		{"a socket of an engine that starts after the command", append([]string{"bash", "-c", `rm -f ` + engineSocket + `; (sleep 1; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("` + engineSocket + `")') & exec "$@"`, "-"},
			as(alice, h.execBy("timeout", "20", "bash", "-c", "until grep -q "+path.Base(engineSocket)+" /proc/self/mountinfo; do sleep 0.2; done; echo hidden")...)...), "hidden"},
		{"status", as(alice, h.binary, "status", "--config", daemonConfig), "ready"},
		{"status of a user who is no member", as(mallory, h.binary, "status", "--config", daemonConfig), "not permitted"},
	} {
		if r := h.run(h.command(w.cmd...)); !strings.Contains(r.stdout+r.stderr, w.want) {
			return w.what + ": " + r.String() + stderr.String()
		}
	}
	if bounded(unix.CAP_SYS_RESOURCE) {
		// Higher than the keeper's, which are as high as ours.
		r := h.run(h.command(append([]string{"prlimit", "--nice=40:40", "--rtprio=99:99", "--memlock=unlimited:unlimited"},
			as(alice, h.execBy("bash", "-c", "ulimit -H -l; ulimit -H -r")...)...)...))
		if r.stdout != "unlimited\n99\n" {
			return "exec under higher limits than the keeper's: " + r.String()
		}
	}
	return ""
}

// TestKeeperCapabilities: the keeper works with the capabilities of its unit, and
// with none of them less.
func TestKeeperCapabilities(t *testing.T) {
	t.Parallel()
	caps := keeperCapabilities(t)
	if len(caps) == 0 {
		t.Fatal("the unit names no capability")
	}
	h := newHost(t)
	h.ownAccounts()
	h.putInmate()
	if failed := h.keeperWork(caps); failed != "" {
		t.Fatalf("with %s: %s", strings.Join(caps, " "), failed)
	}
	for _, c := range caps {
		t.Run(c, func(t *testing.T) {
			if c == sysResource && !bounded(unix.CAP_SYS_RESOURCE) {
				t.Skip("not proven here: this machine itself has no CAP_SYS_RESOURCE that could be dropped; test/vm/rows/59-limits.sh proves it")
			}
			rest := slices.DeleteFunc(slices.Clone(caps), func(o string) bool { return o == c })
			failed := h.keeperWork(rest)
			if failed == "" {
				t.Errorf("the keeper works without %s: take it out of the unit", c)
			}
			t.Log(failed)
		})
	}
}
