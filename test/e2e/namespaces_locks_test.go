package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// TestNamespaceLocks: inside a namespace that has a way of its own to the internet
// nothing leaves but by us, with both locks and under each alone, and a flushed
// table comes back.
func TestNamespaceLocks(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	d := h.startDaemon(h.config(boxPolicy))
	b := h.newBox().plug()
	// Without us it leads out: what is counted as refused below is refused by us.
	before := h.net.connections.Load()
	if r := b.sh("curl -4sS --max-time 5 http://" + originV4 + "/"); r.code != 0 || h.net.connections.Load() != before+1 {
		t.Fatalf("the box has no way to the internet: %v", r)
	}
	b.occupy("box")
	w := h.tap()
	tries := []string{"socket inet stream 6", "connect " + originV4 + " 7443", "send hello"}
	leaves := func(what string) {
		t.Helper()
		for _, uid := range []int{nobody, 0} {
			h.run(b.inside("box", uid, append([]string{sockPath}, tries...)...))
			h.run(b.inside("box", uid, sockPath, "socket inet dgram 17", "connect "+originV4+" 4433", "send hello"))
			h.run(b.inside("box", uid, sockPath, "socket inet stream 6", "device eth0", "connect "+originV4+" 7443", "send hello"))
		}
		if lines := w.fromBox(); len(lines) > 0 {
			t.Errorf("%s: on the wire: %v", what, lines)
		}
	}
	leaves("both locks")
	if r := h.run(b.inside("box", nobody, fetches("http://api.example.com/")...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("by us: %v", r)
	}

	// The daemon sleeps: it must not mend what is tested.
	h.kill(d.pid, unix.SIGSTOP)
	if r := b.sh("nft flush ruleset"); r.code != 0 {
		t.Fatal(r)
	}
	leaves("BPF alone")
	h.kill(d.pid, unix.SIGCONT)
	b.open()
	h.waitEnforced()
	repaired := func(e *audit.Event) bool {
		return e.Kind == audit.Lifecycle && strings.Contains(e.Message, "repaired: guard in a network namespace")
	}
	h.waitAudit("the table inside was repaired", repaired)

	h.kill(d.pid, unix.SIGSTOP)
	h.detach("*")
	leaves("the guard alone")
	h.kill(d.pid, unix.SIGCONT)
	h.waitLocks()
	if r := h.run(b.inside("box", nobody, fetches("http://api.example.com/")...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("after both came back: %v", r)
	}
}

// TestNamespaceOneLock: where the guard captures alone, it does so inside
// namespaces of workloads too; DNS as well.
func TestNamespaceOneLock(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	h.locks = "nft"
	h.startDaemon(h.config(boxPolicy))
	h.write("/srv/ask.py", askDNS)
	b := h.newBox().plug()
	b.occupy("box")
	w := h.tap()
	if r := h.run(b.inside("box", nobody, fetches("http://api.example.com/")...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("by us: %v", r)
	}
	if r := h.run(b.inside("box", nobody, "python3", "/srv/ask.py", dnsV4, "api.example.com")); !strings.Contains(r.stdout, originV4) {
		t.Errorf("DNS: %v", r)
	}
	h.run(b.inside("box", nobody, sockPath, "socket inet stream 6", "connect "+originV4+" 7443", "send hello"))
	h.run(b.inside("box", nobody, sockPath, "socket inet dgram 17", "connect "+originV4+" 4433", "send hello"))
	if lines := w.fromBox(); len(lines) > 0 {
		t.Errorf("on the wire: %v", lines)
	}
	for _, e := range h.auditOf(audit.Exchange) {
		if !strings.HasSuffix(e.Workload.Cgroup, "/box") || e.Dst.IP.String() != originV4 {
			t.Errorf("%+v %+v", e.Workload, e.Dst)
		}
	}
	// Without a route there is nothing that could be redirected: refused, as without
	// us.
	if r := h.run(h.inside("bare", nobody, "unshare", "-Urn", "--", "curl", "-4sS", "--max-time", "5", "http://"+originV4+"/")); r.code == 0 {
		t.Errorf("without a network: %v", r)
	}
}

// TestNamespaceOneLockAlone: where the guard is the only lock, a namespace that comes
// while no worker serves is shut as soon as it is seen, and left as it was found
// when nothing tagged is there any more.
func TestNamespaceOneLockAlone(t *testing.T) {
	t.Parallel()
	s := prepareServices(t)
	s.keeper.argv = append(s.keeper.argv, "--locks", "nft")
	s.keeper.start()
	s.keeper.waitReady(20 * time.Second)
	b := s.h.newBox().plug()
	enter := []string{"nsenter", "-t", strconv.Itoa(b.pid), "-n", "--"}
	ask := append(enter, "curl", "-4sS", "--max-time", "3", "http://"+originV4+"/")
	// By itself it gets out.
	if r := s.h.run(b.outside(ask[len(enter):]...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Fatalf("untagged: %v", r)
	}
	eventually(t, 20*time.Second, "the listeners are closed", func() bool {
		return s.get("/fails", "--resolve", "api.example.com:80:"+originV4, "-m", "1").code == 7
	})
	before := s.h.net.connections.Load()
	// From here on it is tagged: refused from the moment that the table is there.
	c := s.command(append(enter, "sleep", "600")...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	eventually(t, 5*time.Second, "the namespace is shut", b.tabled)
	for range 3 {
		if r := s.inside(ask...); r.code == 0 {
			t.Errorf("without a worker: %v", r)
		}
		s.h.run(b.outside("nft", "flush ruleset"))
		eventually(t, 5*time.Second, "a table that was flushed comes back", b.tabled)
	}
	if n := s.h.net.connections.Load() - before; n != 0 {
		t.Errorf("%d connections reached the origin", n)
	}
	if b.listening() {
		t.Error("somebody listens for nobody")
	}
	c.Process.Kill()
	c.Wait()
	eventually(t, 10*time.Second, "nothing of ours is left in an empty namespace", func() bool { return !b.tabled() })
	// With a worker it is opened as any other.
	s.worker.start()
	s.worker.waitReady(20 * time.Second)
	if r := s.inside(append(enter, fetches("http://api.example.com/")...)...); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("with a worker: %v", r)
	}
}
