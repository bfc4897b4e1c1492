package e2e

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTeardown leaves nothing behind, and nothing while something runs.
func TestTeardown(t *testing.T) {
	h := newHost(t)
	h.ownAccounts()
	h.putInmate()
	teardown := func(more ...string) result {
		t.Helper()
		return h.run(h.sallyport(append([]string{"teardown", "--config", daemonConfig}, more...)...))
	}
	before := h.snapshot()
	d := h.startDaemon(h.config("metrics: { listen: 127.0.0.1:9595 }\nmode: observe\n"))
	during := h.snapshot()
	for _, kind := range []string{"nft table", "cgroup ", "mount bpf", "file /run/sallyport/admin.sock", "file /var/lib/sallyport/ca/root.key"} {
		if !slices.ContainsFunc(during.minus(before), func(l string) bool { return strings.HasPrefix(l, kind) }) {
			t.Errorf("while it runs there is no %q: the comparison would prove nothing", kind)
		}
	}
	if r := h.run(h.command(as(alice, h.execBy("curl", "-sS", "https://api.example.com/x")...)...)); r.code != 0 {
		t.Errorf("%v", r)
	}
	objects := h.pinnedObjects()
	if len(objects) < 10 || len(remaining(objects)) != len(objects) {
		t.Fatalf("BPF objects: %v", objects)
	}

	if r := teardown(); r.code != 1 || !strings.Contains(r.stderr, "already running: stop it first") {
		t.Errorf("while the daemon runs: %v", r)
	}
	if r := teardown("--stop"); r.code != 1 || !living(d.pid) {
		t.Errorf("--stop while the daemon runs: %v", r)
	}
	d.stop()
	slice := cgroupRoot() + "/" + h.slice
	lone := h.startInmate("bash", "-c", "mkdir -p "+slice+"/a/b && echo $$ > "+slice+"/a/b/cgroup.procs && exec "+inmatePath)
	shut := h.snapshot()
	r := teardown()
	if r.code != 1 || !strings.Contains(r.stderr, strconv.Itoa(lone.pid)+" inmate in /"+h.slice+"/a/b") || !strings.Contains(r.stderr, "--stop") {
		t.Errorf("while something runs in the slice: %v", r)
	}
	if changed := shut.minus(h.snapshot()); len(changed) > 0 || len(remaining(objects)) != len(objects) {
		t.Errorf("a refused teardown changed something: %v", changed)
	}
	if o := lone.do("ask", originHTTP, originV4); o.Step != "connect" {
		t.Errorf("after a refused teardown: %+v", o)
	}
	if r := teardown("--stop"); r.code != 0 || r.stdout+r.stderr != "" {
		t.Errorf("--stop: %v", r)
	}
	// Its threads are out of the cgroup a moment before they are gone.
	eventually(t, goneAfter, "--stop lets no process live", func() bool { return !living(lone.pid) })
	h.goneWithin(goneAfter, before, objects, 0)
	if r := teardown(); r.code != 0 {
		t.Errorf("again: %v", r)
	}
	h.goneWithin(goneAfter, before, objects, 0)
	if !strings.Contains(h.read("/var/log/sallyport/audit.jsonl"), "/x") {
		t.Error("teardown took the audit away")
	}
}

// TestTeardownOfTheKilled: what killed processes left goes too: the service's,
// and an exec's whose keeper and watcher were both killed.
func TestTeardownOfTheKilled(t *testing.T) {
	h := newHost(t)
	h.putInmate()
	before := h.snapshot()
	conf := h.config("mode: observe\n")
	h.write(daemonConfig, conf)
	i := h.startInmate(h.binary, "exec", "--standalone", "--config", daemonConfig, "--", inmatePath)
	keeper, watch, worker := h.role("keeper"), h.role("watch"), h.role("worker")
	objects := h.pinnedObjects()

	r := h.run(h.sallyport("teardown", "--config", daemonConfig))
	if r.code != 1 || !strings.Contains(r.stderr, "already running") {
		t.Errorf("while an exec runs: %v", r)
	}
	h.kill(watch, unix.SIGKILL)
	h.kill(keeper, unix.SIGKILL)
	start := time.Now()
	eventually(t, goneAfter, "the worker ends with its keeper", func() bool {
		return !living(keeper) && !living(worker) && !slices.ContainsFunc(h.processes(), func(p hostProcess) bool { return p.role() != "" })
	})
	// TestKilledExec says how soon; once is not enough for so little.
	if took := time.Since(start); took > patience(10*time.Second) {
		t.Errorf("the worker ended %s after its keeper", took)
	}
	// Nobody is left to end the command, and the gate is still shut.
	reached := h.net.connections.Load()
	if o := i.do("ask", originHTTP, originV4); o.Step != "connect" {
		t.Errorf("without keeper and watcher: %+v", o)
	}
	if n := h.net.connections.Load(); n != reached {
		t.Error("a connection reached the origin without keeper and watcher")
	}
	r = h.run(h.sallyport("teardown", "--config", daemonConfig))
	if r.code != 1 || !strings.Contains(r.stderr, strconv.Itoa(i.pid)+" inmate in ") {
		t.Errorf("while its command runs: %v", r)
	}
	if r := h.run(h.sallyport("teardown", "--stop", "--config", daemonConfig)); r.code != 0 {
		t.Errorf("--stop: %v", r)
	}
	h.goneWithin(goneAfter, before, objects, i.pid)

	// The next exec sweeps as well.
	i = h.startInmate(h.binary, "exec", "--standalone", "--config", daemonConfig, "--", inmatePath)
	objects = h.pinnedObjects()
	keeper = h.role("keeper")
	h.kill(h.role("watch"), unix.SIGKILL)
	h.kill(keeper, unix.SIGKILL)
	// A dying keeper still has its lock, and the next exec leaves it alone.
	eventually(t, goneAfter, "the keeper is dead", func() bool { return !living(keeper) })
	if r := h.run(h.command(h.binary, "exec", "--standalone", "--config", daemonConfig, "--", "true")); r.code != 0 {
		t.Errorf("the next exec: %v", r)
	}
	eventually(t, goneAfter, "the earlier command is gone", func() bool { return !living(i.pid) })
	eventually(t, goneAfter, "the earlier exec's programs and maps are gone", func() bool { return len(remaining(objects)) == 0 })
	if r := h.run(h.sallyport("teardown", "--stop", "--config", daemonConfig)); r.code != 0 {
		eventually(t, goneAfter, "teardown", func() bool {
			return h.run(h.sallyport("teardown", "--stop", "--config", daemonConfig)).code == 0
		})
	}
	h.goneWithin(goneAfter, before, objects, 0)
}

// TestRunAgain: a second daemon is refused, and a daemon takes over what a
// killed one left, without a moment in which the gate is open.
func TestRunAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putInmate()
	d := h.startDaemon(h.config(oneAllowed))
	r := h.run(h.sallyport("run", "--config", daemonConfig))
	if r.code != 1 || !strings.HasPrefix(r.stderr, "sallyport: run: ") || !strings.Contains(r.stderr, "already running") {
		t.Errorf("second daemon: %v", r)
	}
	slice := cgroupRoot() + "/" + h.slice
	lone := h.startInmate("bash", "-c", "mkdir -p "+slice+"/lone && echo $$ > "+slice+"/lone/cgroup.procs && exec "+inmatePath)
	stop := make(chan struct{})
	tried := make(chan outcome, 1000)
	go func() {
		defer close(tried)
		for {
			select {
			case <-stop:
				return
			default:
				tried <- lone.do("ask", deniedHTTP, "203.0.113.12")
			}
		}
	}()
	for range 2 {
		h.kill(d.pid, unix.SIGKILL)
		<-d.ended
		d = h.startDaemon(h.config(oneAllowed))
	}
	close(stop)
	n := 0
	for o := range tried {
		n++
		if o.Step == "done" && !strings.Contains(o.Answer, "403") {
			t.Errorf("%+v", o)
		}
	}
	if n == 0 || h.net.connections.Load() != 0 {
		t.Errorf("%d tries, %d connections reached the origin", n, h.net.connections.Load())
	}
	if o := lone.do("ask", originHTTP, originV4); !strings.Contains(o.Answer, "200") {
		t.Errorf("allowed: %+v", o)
	}
}
