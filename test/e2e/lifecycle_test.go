package e2e

import (
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Times that the contract states.
const (
	// atOnce is what "at once" means to a test on a busy machine: to the best of its
	// tries.
	atOnce = time.Second
	// goneAtMost is how long what belonged to a killed exec may stay (TestKilledExec),
	// and goneAfter how long tests wait for it that measure something else.
	goneAtMost = time.Second
	goneAfter  = 20 * time.Second
	// waitsAtMost is how long a new connection waits without a worker, with what
	// a busy machine adds; it would wait twice as long if nobody closed it.
	waitsAtMost = 20 * time.Second
)

const originHTTP = originV4 + ":80"

// TestKilledExec: whoever of an exec's processes is killed, the command ends
// and nothing stays.
func TestKilledExec(t *testing.T) {
	for _, who := range []string{"command", "command in an exchange", "keeper", "keeper and worker"} {
		t.Run(who, func(t *testing.T) {
			best(t, "the end of everything", goneAtMost, func() time.Duration { return killedExec(t, who) })
		})
	}
}

// killedExec gives how long it took until everything was gone.
func killedExec(t *testing.T, who string) time.Duration {
	h := newHost(t)
	h.putInmate()
	h.warmUp()
	before := h.snapshot()
	i := h.startInmate(h.exec("", inmatePath)...)
	if o := i.do("ask", originHTTP, originV4); !strings.Contains(o.Answer, "200") {
		t.Fatalf("before: %+v", o)
	}
	objects := h.pinnedObjects()
	if len(objects) < 10 {
		t.Fatalf("only %d BPF objects are pinned: the test looks at the wrong place", len(objects))
	}
	keeper, worker := h.role("keeper"), h.role("worker")
	h.role("watch")
	if who == "command in an exchange" {
		// The origin lets it wait for an answer.
		arrived, leave := make(chan struct{}), make(chan struct{})
		defer close(leave)
		h.net.setHandler(func(http.ResponseWriter, *http.Request) { close(arrived); <-leave })
		i.order("ask", originHTTP, originV4)
		<-arrived
	}
	start := time.Now()
	switch who {
	case "command", "command in an exchange":
		h.kill(i.pid, unix.SIGKILL)
	case "keeper":
		h.kill(keeper, unix.SIGKILL)
	case "keeper and worker":
		h.kill(keeper, unix.SIGKILL)
		h.kill(worker, unix.SIGKILL)
	}
	h.goneWithin(goneAfter, before, objects, i.pid)
	return time.Since(start)
}

// TestKilledKeeperAndWorker: where nobody holds the listeners, connects fail at
// once, and nothing reaches the origin. A restart works again.
func TestKilledKeeperAndWorker(t *testing.T) {
	h := newHost(t)
	h.putInmate()
	before := h.snapshot()
	var lone *inmate
	var objects []kernelObject
	var reached int64
	best(t, "the end of every process of ours and of the killed daemon's command", goneAtMost, func() time.Duration {
		d := h.startDaemon(h.config("mode: observe\n"))
		i := h.startInmate(h.binary, "exec", "--config", "/srv/daemon/policy.yaml", "--", inmatePath)
		slice := filepath.Dir(h.tagged(i.pid))
		if o := i.do("ask", originHTTP, originV4); !strings.Contains(o.Answer, "200") {
			t.Fatalf("before: %+v", o)
		}
		objects = h.pinnedObjects()
		// The daemon's commands end with it, so somebody else in the tagged cgroup
		// tells what the gate does without a daemon.
		if lone == nil {
			lone = h.startInmate("bash", "-c", "mkdir -p "+slice+"/lone && echo $$ > "+slice+"/lone/cgroup.procs && exec "+inmatePath)
		}
		if o := lone.do("ask", originHTTP, originV4); !strings.Contains(o.Answer, "200") {
			t.Fatalf("before: %+v", o)
		}
		reached = h.net.connections.Load()
		worker := h.role("worker")
		start := time.Now()
		h.kill(worker, unix.SIGKILL)
		h.kill(d.pid, unix.SIGKILL)
		<-d.ended
		eventually(t, goneAfter, "no process of ours, and no command", func() bool {
			for _, p := range h.processes() {
				if p.role() != "" {
					return false
				}
			}
			return !living(i.pid)
		})
		return time.Since(start)
	})
	for _, addr := range []string{originV4, "[" + originV6 + "]", originV4, "[" + originV6 + "]"} {
		best(t, "the refusal of "+addr, atOnce, func() time.Duration {
			o := lone.do("ask", addr+":80", addr)
			if o.Step != "connect" || o.Errno != "EPERM" && o.Errno != "ECONNREFUSED" {
				t.Errorf("without a daemon: %+v", o)
			}
			return time.Duration(o.Took * float64(time.Second))
		})
	}
	if n := h.net.connections.Load(); n != reached {
		t.Errorf("%d connections reached the origin without a daemon", n-reached)
	}
	d := h.startDaemon(h.config("mode: observe\n"))
	if o := lone.do("ask", originHTTP, originV4); !strings.Contains(o.Answer, "200") {
		t.Errorf("after the restart: %+v", o)
	}
	again := h.startInmate(h.binary, "exec", "--config", "/srv/daemon/policy.yaml", "--", inmatePath)
	if o := again.do("ask", originHTTP, originV4); !strings.Contains(o.Answer, "200") {
		t.Errorf("after the restart: %+v", o)
	}
	again.stdin.Close()
	<-again.ended
	lone.stdin.Close()
	<-lone.ended
	d.stop()
	if r := h.run(h.sallyport("teardown", "--config", "/srv/daemon/policy.yaml")); r.code != 0 {
		t.Fatalf("teardown: %v", r)
	}
	h.goneWithin(goneAfter, before, objects, 0)
}

// warmUp runs an exec to its end: the certificate authority, which all instances
// share and which stays, exists then.
func (h *host) warmUp() {
	h.t.Helper()
	if r := h.run(h.command(h.exec("", "true")...)); r.code != 0 {
		h.t.Fatalf("exec of true: %v", r)
	}
	// Its keeper ends a moment after it.
	eventually(h.t, goneAfter, "no process of the exec", func() bool { return len(h.processes()) == 0 })
}

// tagged gives the directory of a process's cgroup.
func (h *host) tagged(pid int) string {
	h.t.Helper()
	r := h.sh("grep ^0:: /proc/" + strconv.Itoa(pid) + "/cgroup")
	path := strings.TrimSpace(strings.TrimPrefix(r.stdout, "0::"))
	if path == "" || path == "/" {
		h.t.Fatalf("process %d is in no cgroup of its own: %v", pid, r)
	}
	return cgroupRoot() + path
}

// oneAllowed lets requests to originV4 through and refuses those to
// deniedHTTP: what arrives there went around the worker.
const oneAllowed = `
rules:
  - { name: one, match: { cidrs: ["` + originV4 + `/32", "` + originV6 + `/128"], ports: [80] }, action: allow }
`

const deniedHTTP = "203.0.113.12:80"

// TestKilledWorker: connections wait for the new worker, and are served.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"run", "exec"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.putInmate()
			argv := h.exec(h.config(oneAllowed), inmatePath)
			if name == "run" {
				h.startDaemon(h.config(oneAllowed))
				argv = []string{h.binary, "exec", "--config", "/srv/daemon/policy.yaml", "--", inmatePath}
			}
			i := h.startInmate(argv...)
			asked := 0
			for round := range 3 {
				old := h.role("worker")
				h.kill(old, unix.SIGKILL)
				o := i.do("ask", originHTTP, originV4)
				if o.Took > waitsAtMost.Seconds() || o.Step == "done" && !strings.Contains(o.Answer, "200") {
					t.Errorf("round %d, while the worker was away: %+v", round, o)
				}
				eventually(t, 20*time.Second, "a new worker", func() bool { return h.role("worker") != old })
				h.kill(h.role("worker"), unix.SIGKILL)
				if o := i.do("ask", deniedHTTP, "203.0.113.12"); o.Step == "done" && !strings.Contains(o.Answer, "403") {
					t.Errorf("round %d, denied: %+v", round, o)
				}
				if o := i.do("ask", originHTTP, originV4); !strings.Contains(o.Answer, "200") {
					t.Errorf("round %d, with the new worker: %+v", round, o)
				}
				asked += 2
			}
			for _, r := range h.net.seen() {
				if r.Host != originV4 {
					t.Errorf("a denied request reached the origin: %+v", r)
				}
			}
			// A connection may carry several requests, but none came without one.
			if seen, reached := len(h.net.seen()), int(h.net.connections.Load()); seen > asked || reached > seen {
				t.Errorf("%d connections with %d requests reached the origin, for %d questions", reached, seen, asked)
			}
		})
	}
}

// TestStoppedWorker: a worker that hangs serves nobody; it is replaced, and
// nothing goes around it.
func TestStoppedWorker(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putInmate()
	i := h.startInmate(h.exec("", inmatePath)...)
	old := h.role("worker")
	h.kill(old, unix.SIGSTOP)
	start := time.Now()
	i.order("ask", originHTTP, originV4)
	eventually(t, 25*time.Second, "a new worker instead of the one that hangs", func() bool {
		reached := h.net.connections.Load()
		if !living(old) {
			return true
		}
		if reached != 0 {
			t.Fatal("a connection reached the origin while the worker hung")
		}
		return false
	})
	o := i.outcome()
	t.Logf("after %s: %+v", time.Since(start), o)
	if o.Step == "done" && !strings.Contains(o.Answer, "200") {
		t.Errorf("%+v", o)
	}
	if o := i.do("ask", originHTTP, originV4); !strings.Contains(o.Answer, "200") {
		t.Errorf("with the new worker: %+v", o)
	}
}

// TestWorkerThatCannotStart: connections wait at most 10 s, then the listeners
// are closed and connects fail at once; when a worker starts again they are
// served again.
func TestWorkerThatCannotStart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putInmate()
	h.ownAccounts()
	i := h.startInmate(h.exec("", inmatePath)...)
	old := h.role("worker")
	// An account that no process can have.
	accounts := h.read("/etc/passwd")
	h.write("/etc/passwd", accounts+"sallyport:x:4294967295:4294967295::/:/bin/false\n")
	h.kill(old, unix.SIGKILL)
	o := i.do("ask", originHTTP, originV4)
	if o.Step == "done" || o.Took > waitsAtMost.Seconds() {
		t.Errorf("without a worker: %+v", o)
	}
	t.Logf("first after %.1f s: %+v", o.Took, o)
	eventually(t, waitsAtMost, "connects fail at once", func() bool {
		o = i.do("ask", originHTTP, originV4)
		return o.Step == "connect" && o.Took < atOnce.Seconds()
	})
	if n := h.net.connections.Load(); n != 0 {
		t.Errorf("%d connections reached the origin without a worker", n)
	}
	h.write("/etc/passwd", accounts)
	eventually(t, 30*time.Second, "served again", func() bool {
		o = i.do("ask", originHTTP, originV4)
		return strings.Contains(o.Answer, "200")
	})
}
