package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// TestNamespaceComeAndGo: namespaces that come and go leave nothing behind.
func TestNamespaceComeAndGo(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.startDaemon(h.config(boxPolicy))
	comes := func(cgroup string) {
		t.Helper()
		if r := h.run(h.inside(cgroup, nobody, append([]string{"unshare", "-Urn", "--"}, fetches("http://api.example.com/")...)...)); !strings.Contains(r.stdout, `"ok":true`) {
			t.Errorf("%s: %v", cgroup, r)
		}
	}
	gone := func() bool {
		return h.scrape(`sallyport_resource_entries{resource="network_namespaces"}`) == 0 &&
			h.scrape(`sallyport_resource_entries{resource="bpf_listeners"}`) == 1
	}
	for i := range 4 {
		comes(fmt.Sprintf("before-%d", i))
	}
	eventually(t, 20*time.Second, "the first are gone", gone)
	keeper, worker := d.pid, h.role("worker")
	fds := [2]int{countFDs(t, keeper), countFDs(t, worker)}
	const times = 200
	for i := range times {
		comes(fmt.Sprintf("come-%d", i%4))
	}
	eventually(t, 20*time.Second, "all are gone", gone)
	// Longer than the pool keeps a connection.
	eventually(t, 90*time.Second, "no descriptor is left", func() bool {
		return countFDs(t, keeper) <= fds[0]+4 && countFDs(t, worker) <= fds[1]+4
	})
	if s := h.status(); len(s.Problems) > 0 || !s.EnforcementActive {
		t.Errorf("%+v", s)
	}
}

// TestNamespaceGivenUp: a namespace that lives on without tagged processes has
// nothing of ours in it, and is not kept alive by us.
func TestNamespaceGivenUp(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(boxPolicy))
	b := h.newBox()
	c := b.occupy("box")
	c.Process.Kill()
	c.Wait()
	b.shut()
	// A file bound over its handle would tell; its cable does as well.
	b = h.newBox().plug()
	c = b.occupy("box")
	c.Process.Kill()
	c.Wait()
	b.end()
	eventually(t, 10*time.Second, "the namespace has ended with its processes", func() bool {
		return h.sh("ip link show box0").code != 0
	})
}

// TestNamespaceTeardown: what a killed daemon left in a namespace that outlives its
// workload goes with teardown.
func TestNamespaceTeardown(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	d := h.startDaemon(h.config(boxPolicy))
	b := h.newBox()
	c := b.occupy("box")
	d.cmd.Process.Kill()
	<-d.ended
	c.Process.Kill()
	c.Wait()
	if !b.tabled() {
		t.Fatal("the table went with the keeper")
	}
	if r := h.run(h.sallyport("teardown", "--stop", "--config", "/srv/daemon/policy.yaml")); r.code != 0 {
		t.Fatal(r)
	}
	if b.tabled() || b.listening() {
		t.Error("teardown left something in the namespace")
	}
}

// TestNamespaceMaker: a workload that makes namespaces without end has its share of
// the places; the others are refused, said, and another workload still gets one.
func TestNamespaceMaker(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(boxPolicy))
	const share = 120
	maker := h.inside("maker", nobody, "bash", "-c", fmt.Sprintf("for i in $(seq %d); do unshare -Urn sleep 300 & done; wait", share+20))
	if err := maker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.sh("echo 1 > " + h.below("maker") + "/cgroup.kill"); maker.Wait() })
	entries := func() float64 { return h.scrape(`sallyport_resource_entries{resource="network_namespaces"}`) }
	eventually(t, 60*time.Second, "the maker has its share", func() bool { return entries() == share })
	eventually(t, 10*time.Second, "status names it", func() bool {
		return strings.Contains(strings.Join(h.status().Problems, "\n"), "maker): the workload has its 120 of the 240 places")
	})
	if s := h.status(); !s.EnforcementActive {
		t.Errorf("%+v", s)
	}
	started := time.Now()
	if r := h.run(h.inside("another", nobody, append([]string{"unshare", "-Urn", "--"}, fetches("http://api.example.com/")...)...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("another workload: %v", r)
	}
	t.Logf("another workload was served after %s", time.Since(started))
	before := h.scrape(`sallyport_bpf_refused_total{reason="no_listener"}`)
	if r := h.run(h.inside("maker", nobody, "unshare", "-Urn", "--", "curl", "-4sS", "--max-time", "5", "http://"+originV4+"/")); r.code == 0 {
		t.Errorf("one more of the maker: %v", r)
	}
	eventually(t, 5*time.Second, "the refusal is counted", func() bool {
		return h.scrape(`sallyport_bpf_refused_total{reason="no_listener"}`) > before
	})
	eventually(t, 5*time.Second, "the maker has no more than its share", func() bool { return entries() == share })
	h.sh("echo 1 > " + h.below("maker") + "/cgroup.kill")
	eventually(t, 20*time.Second, "all places are free", func() bool { return entries() == 0 })
	eventually(t, 10*time.Second, "status has no problem any more", func() bool { return len(h.status().Problems) == 0 })
}

// TestNamespaceManyCgroups: a workload that makes more cgroups than are looked at
// takes nothing from another, whose namespace is found and served, and is named.
func TestNamespaceManyCgroups(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(boxPolicy))
	const many = 4500 // more than all that are looked at
	dir := filepath.Join(cgroupRoot(), h.slice, "hostile")
	for i := range many {
		if err := os.MkdirAll(filepath.Join(dir, strconv.Itoa(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for i := range many {
			os.Remove(filepath.Join(dir, strconv.Itoa(i)))
		}
		os.Remove(dir)
	})
	b := h.newBox()
	c := b.inside("quiet", nobody, "sleep", "600")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	eventually(t, 30*time.Second, "the namespace of another workload is open", b.listening)
	if r := h.run(b.inside("quiet", nobody, fetches("http://api.example.com/")...)); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("another workload: %v", r)
	}
	eventually(t, 10*time.Second, "status names who made them", func() bool {
		return strings.Contains(strings.Join(h.status().Problems, "\n"), "/hostile has more than its share of the")
	})
	h.waitAudit("who made them", func(e *audit.Event) bool {
		return e.Kind == audit.Lifecycle && strings.Contains(e.Message, "/hostile has more than its share")
	})
}
