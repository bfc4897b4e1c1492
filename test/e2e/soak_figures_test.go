package e2e

import (
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// figures are what the daemon holds, by name.
type figures map[string]float64

// look reads the figures; nil where the machine is too busy for that.
func (s *soak) look() figures {
	s.t.Helper()
	// The kernel counts what it tracks no longer until somebody lists it.
	r := s.sh("cat /proc/net/nf_conntrack > /dev/null; curl -sS --max-time 20 http://127.0.0.1:9595/metrics")
	if r.code != 0 {
		s.t.Logf("metrics: %v", r)
		return nil
	}
	f := figures{}
	for line := range strings.Lines(r.stdout) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || !strings.HasPrefix(name, "sallyport_resource_entries{") && !strings.HasPrefix(name, "sallyport_flows_active") && name != "go_goroutines" && name != "go_memstats_heap_inuse_bytes" {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			s.t.Errorf("metrics: %q", line)
		}
		f[name] = v
	}
	for name, pid := range map[string]int{"worker": s.worker, "keeper": s.daemon.pid} {
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		f[name+" descriptors"], f[name+" threads"], f[name+" resident"] = float64(len(fds)), float64(len(threads)), float64(residentBytes(s.t, pid))
	}
	sockets := s.sh("ss -Htan state connected exclude time-wait")
	if sockets.code != 0 {
		s.t.Fatalf("ss: %v", sockets)
	}
	f["connected sockets"] = float64(strings.Count(sockets.stdout, "\n"))
	return f
}

func (f figures) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(f)) {
		fmt.Fprintf(&b, "\n  %s %.0f", strings.TrimPrefix(name, "sallyport_"), f[name])
	}
	return b.String()
}

// tolerance is by how much a figure may be higher at the end than it was at
// the beginning. A short run does not wait for the minute that the pool keeps a
// connection, nor for the one that the kernel keeps a closed one's port
// (TIME_WAIT): "connected sockets" counts without these.
func (p soakPlan) tolerance(name string) float64 {
	switch {
	case !p.long() && (strings.HasSuffix(name, `"upstream_idle_connections"}`) || strings.HasSuffix(name, `"worker_descriptors"}`) ||
		name == "worker descriptors" || name == "connected sockets" || name == "go_goroutines"):
		return 120
	case !p.long() && strings.HasSuffix(name, `"ephemeral_ports"}`):
		return math.Inf(1)
	case !p.long() && strings.HasSuffix(name, `"bpf_workloads"}`):
		return 20 // of commands that ended just now
	case strings.HasSuffix(name, `"identities"}`), strings.HasSuffix(name, `"cgroup_paths"}`):
		return 200 // bounded memories of processes that are gone
	case strings.HasSuffix(name, `"early_closed_flows"}`):
		return 4096 // a ring of that size, of connections that ended before they were accepted
	case strings.HasSuffix(name, `"conntrack"}`):
		return 30 // of looks like this one, for some seconds
	case strings.HasSuffix(name, "resident"):
		return 64 << 20 // the heap's room for what ran is given back later
	case strings.HasSuffix(name, "heap_inuse_bytes"):
		return 24 << 20
	case strings.HasSuffix(name, "threads"):
		return 24 // Go keeps threads that have been needed once
	case strings.Contains(name, `"leaf_cache"`), strings.Contains(name, `"dns`), strings.Contains(name, `"names`), strings.Contains(name, "queue"):
		return 100
	case strings.Contains(name, `"metric_`), strings.Contains(name, `"workload`):
		return 20
	default:
		return 8
	}
}

// excess gives the figures that are higher than they were.
func (p soakPlan) excess(f, before figures) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if f[name] > before[name]+p.tolerance(name) {
			all = append(all, fmt.Sprintf("%s: %.0f, was %.0f", name, f[name], before[name]))
		}
	}
	return all
}

// settle waits until the figures are as they were, or, without any, until
// nothing is open.
func (s *soak) settle(before figures) figures {
	s.t.Helper()
	if before == nil {
		before = figures{"go_goroutines": 60, "worker descriptors": 40, "keeper descriptors": 150, "go_memstats_heap_inuse_bytes": 1 << 40, "worker resident": 1 << 40, "keeper resident": 1 << 40, "worker threads": 1000, "connected sockets": 100, "keeper threads": 1000}
		for name := range s.look() {
			if strings.HasPrefix(name, "sallyport_") {
				before[name] = 1000
			}
		}
		before[`sallyport_resource_entries{resource="connections"}`] = 0
	}
	var f figures
	limit := 20 * time.Second
	if s.plan.long() {
		limit = 2 * time.Minute
	}
	for start := time.Now(); ; time.Sleep(250 * time.Millisecond) {
		if f = s.look(); f != nil && len(s.plan.excess(f, before)) == 0 || late(start, limit) {
			return f
		}
	}
}

func (s *soak) returned(before, after figures) {
	s.t.Helper()
	// One that has ended holds nothing.
	for _, role := range []string{"worker", "keeper"} {
		if after[role+" descriptors"] == 0 {
			s.t.Errorf("the %s of the beginning has ended", role)
		}
	}
	for _, e := range s.plan.excess(after, before) {
		s.t.Errorf("not where it began: %s", e)
	}
}

// watch notes the figures while the soak runs.
func (s *soak) watch(stop <-chan struct{}) (all []figures) {
	for {
		select {
		case <-stop:
			return all
		case <-time.After(max(s.plan.duration/60, time.Second)):
			if f := s.look(); f != nil {
				all = append(all, f)
			}
		}
	}
}

// verdicts looks for what grows all the time: in a long run the last third must
// not be above the middle one.
func (s *soak) verdicts(all []figures) {
	s.t.Helper()
	if len(all) == 0 {
		return
	}
	most := func(part []figures, name string) (m float64) {
		for _, f := range part {
			m = max(m, f[name])
		}
		return m
	}
	third := len(all) / 3
	for _, name := range []string{"worker resident", "keeper resident", "go_goroutines", "worker descriptors", "keeper descriptors"} {
		middle, last := most(all[third:2*third], name), most(all[2*third:], name)
		s.t.Logf("at most: %s %.0f, then %.0f", name, middle, last)
		if s.plan.long() && last > middle*1.2+s.plan.tolerance(name) {
			s.t.Errorf("%s grows: %.0f in the second third, %.0f in the last", name, middle, last)
		}
	}
}
