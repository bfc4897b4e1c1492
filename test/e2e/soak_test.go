package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// A soakPlan is how hard and how long. Its defaults are for every run of the
// tests; scripts/soak has the long one.
type soakPlan struct {
	duration             time.Duration
	connections, loaders int
	seed                 uint64
}

func newSoakPlan(t *testing.T) soakPlan {
	p := soakPlan{duration: 8 * time.Second, connections: 400, loaders: 4, seed: rand.Uint64N(1 << 30)}
	for name, set := range map[string]func(string) error{
		"SOAK_DURATION":    func(s string) (err error) { p.duration, err = time.ParseDuration(s); return err },
		"SOAK_CONNECTIONS": func(s string) (err error) { p.connections, err = strconv.Atoi(s); return err },
		"SOAK_SEED":        func(s string) (err error) { p.seed, err = strconv.ParseUint(s, 10, 64); return err },
	} {
		if s := os.Getenv(name); s != "" {
			if err := set(s); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	if p.connections >= 1000 {
		p.loaders = 8
	}
	return p
}

// long says that there is time to look for what grows slowly.
func (p soakPlan) long() bool { return p.duration >= 2*time.Minute }

const soakRules = `
timeouts: { idle: 5s }
audit: { file: { path: /var/log/sallyport/audit.jsonl, max_size: 100MB, max_files: 500 } }
workloads:
  load: { match: { command: "*" } }
rules:
  - name: denied
    match: { hosts: [soak.example.com], paths: [/denied/**] }
    action: deny
  - name: hidden
    match: { hosts: [tunnel.example.com] }
    action: allow
    handling: tunnel
  - name: soak
    match: { hosts: [soak.example.com] }
    action: allow
`

// TestSoak: many connections of all kinds at a time, slow ones, torn ones,
// refused ones, programs that are killed. Not one byte is wrong, each exchange
// has one event, and what the daemon holds returns to where it began.
func TestSoak(t *testing.T) {
	plan := newSoakPlan(t)
	t.Logf("SOAK_SEED=%d SOAK_DURATION=%s SOAK_CONNECTIONS=%d", plan.seed, plan.duration, plan.connections)
	s := newSoak(t, plan)
	s.load("warm", 2*time.Second, plan.connections/4, 1)
	before := s.settle(nil)
	t.Logf("before: %v", before)

	stop := make(chan struct{})
	watched := make(chan []figures)
	go func() { watched <- s.watch(stop) }()
	s.run()
	close(stop)
	s.verdicts(<-watched)

	after := s.settle(before)
	t.Logf("after: %v", after)
	s.returned(before, after)
	s.complete()
	if got := s.ask(); got != "wrong 0 trespassed 0" {
		t.Errorf("the origin: %s", got)
	}
}

type soak struct {
	*host
	plan    soakPlan
	daemon  *daemon
	program string
	worker  int
	two     bool
	failed  int
}

func newSoak(t *testing.T, plan soakPlan) *soak {
	h := newHost(t)
	h.net.setName("soak.example.com", originV4)
	// An address of its own: HTTP/2 in clear is judged by what its address is
	// known for before its requests can be seen.
	h.net.setName("tunnel.example.com", "203.0.113.11")
	dir := t.TempDir()
	c := exec.Command("go", "build", "-o", dir+"/soak", "../soak")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build test/soak: %v: %s", err, out)
	}
	program, err := os.ReadFile(dir + "/soak")
	if err != nil {
		t.Fatal(err)
	}
	s := &soak{host: h, plan: plan, program: "/srv/bin/soak"}
	h.putProgram(s.program, program)
	var pairs []string
	for _, name := range []string{"soak.example.com", "tunnel.example.com"} {
		key, cert := h.net.leafFiles(dir, name)
		pairs = append(pairs, cert+":"+key)
	}
	(&street{host: h}).startServer(nil, []string{"9460", "9461"}, dir+"/soak", "origin", "-certificates", strings.Join(pairs, ","))
	// What config() gives has an audit section of its own.
	conf := strings.Replace(h.config(soakRules), "audit: { file: { path: /var/log/sallyport/audit.jsonl } }\n", "", 1)
	s.daemon = h.startDaemon(conf)
	s.worker = h.workerPID()
	r := h.run(h.command(h.execBy("curl", "-sS", "-o", "/dev/null", "-w", "%{http_version}", "https://soak.example.com:9460/figures")...))
	s.two = r.stdout == "2"
	if !s.two {
		t.Logf("without HTTP/2: the gate speaks %q", r.stdout)
	}
	return s
}

// start starts one program behind the gate.
func (s *soak) start(name string, duration time.Duration, connections int, seed uint64) (*exec.Cmd, *syncBuffer) {
	s.t.Helper()
	argv := []string{s.program, "load", "-name", name, "-seed", strconv.FormatUint(seed, 10), "-connections", strconv.Itoa(connections), "-duration", duration.String(), "-results", "/srv/results-" + name}
	if s.two {
		argv = append(argv, "-h2")
	}
	c := s.command(s.execBy(argv...)...)
	out := &syncBuffer{}
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	return c, out
}

// load runs one program to its end and looks at what it says.
func (s *soak) load(name string, duration time.Duration, connections int, seed uint64) {
	s.t.Helper()
	c, out := s.start(name, duration, connections, seed)
	s.ended(name, c.Wait(), out)
}

func (s *soak) ended(name string, err error, out *syncBuffer) {
	s.t.Helper()
	var summary struct {
		Counts map[string]int
		Errors []string
	}
	if jsonErr := json.Unmarshal([]byte(out.String()), &summary); err != nil || jsonErr != nil {
		s.t.Errorf("load %s: %v: %s", name, err, out)
		return
	}
	s.t.Logf("load %s: %v", name, summary.Counts)
	for _, e := range summary.Errors {
		s.t.Errorf("load %s: %s", name, e)
	}
}

// run keeps the programs running for the duration. At times one is killed, and
// another takes its place.
func (s *soak) run() {
	s.t.Helper()
	random := rand.New(rand.NewPCG(s.plan.seed, 0))
	end := time.Now().Add(s.plan.duration)
	type program struct {
		name string
		c    *exec.Cmd
		out  *syncBuffer
		done chan error
	}
	serial := 0
	begin := func() *program {
		serial++
		p := &program{name: fmt.Sprintf("l%d", serial), done: make(chan error, 1)}
		p.c, p.out = s.start(p.name, time.Until(end), s.plan.connections/s.plan.loaders, s.plan.seed+uint64(serial))
		go func() { p.done <- p.c.Wait() }()
		return p
	}
	var running []*program
	for range s.plan.loaders {
		running = append(running, begin())
	}
	for kills := range 6 {
		time.Sleep(time.Until(end.Add(-s.plan.duration * time.Duration(6-kills) / 7)))
		i := random.IntN(len(running))
		p := running[i]
		victims := s.loaderPIDs(p.name)
		if kills%2 == 0 {
			victims = []int{p.c.Process.Pid} // its wrapper, and all with it
		}
		for _, pid := range victims {
			unix.Kill(pid, unix.SIGKILL)
		}
		<-p.done
		s.t.Logf("killed %s", p.name)
		running[i] = begin()
	}
	for _, p := range running {
		select {
		case err := <-p.done:
			s.ended(p.name, err, p.out)
		case <-time.After(time.Until(end) + 90*time.Second):
			s.t.Errorf("load %s does not end: %s", p.name, p.out)
			p.c.Process.Kill()
			<-p.done
		}
	}
}

// loaderPIDs finds the program itself.
func (s *soak) loaderPIDs(name string) (pids []int) {
	for _, p := range s.processes() {
		if len(p.argv) > 3 && p.argv[0] == s.program && p.argv[1] == "load" && p.argv[3] == name {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// figures are what the daemon holds, by name.
type figures map[string]float64

// look reads the figures; nil where the machine is too busy for that.
func (s *soak) look() figures {
	s.t.Helper()
	r := s.sh("curl -sS --max-time 20 http://127.0.0.1:9595/metrics")
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
// the beginning. A short run does not wait until connections that the pool
// keeps for a minute are closed.
func (p soakPlan) tolerance(name string) float64 {
	switch {
	case !p.long() && (strings.HasSuffix(name, `"upstream_idle_connections"}`) || name == "worker descriptors" || name == "go_goroutines"):
		return 120
	case strings.HasSuffix(name, `"identities"}`), strings.HasSuffix(name, `"cgroup_paths"}`):
		return 200 // bounded memories of processes that are gone
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
		before = figures{"go_goroutines": 60, "worker descriptors": 40, "keeper descriptors": 100, "go_memstats_heap_inuse_bytes": 1 << 40, "worker resident": 1 << 40, "keeper resident": 1 << 40, "worker threads": 1000, "keeper threads": 1000}
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
	for deadline := time.Now().Add(patience(limit)); ; time.Sleep(250 * time.Millisecond) {
		if f = s.look(); f != nil && len(s.plan.excess(f, before)) == 0 || time.Now().After(deadline) {
			return f
		}
	}
}

func (s *soak) returned(before, after figures) {
	s.t.Helper()
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

// complete compares the audit with what became of each request.
func (s *soak) complete() {
	s.t.Helper()
	exchanges := map[string]int{}
	flows := map[uint64]int{} // opened, less closed
	kinds := map[audit.Kind]int{}
	s.events(func(e *audit.Event) {
		kinds[e.Kind]++
		switch e.Kind {
		case audit.Exchange:
			if e.HTTP.Path != "" && e.HTTP.Path != "/figures" {
				exchanges[e.HTTP.Path]++
			}
			if denied := strings.HasPrefix(e.HTTP.Path, "/denied/"); denied != (e.Verdict == "deny") && e.Reason != "malformed_request" && s.failed < 10 {
				s.failed++
				s.t.Errorf("audit: %s %s", e.HTTP.Path, e.Verdict)
			}
		case audit.Refused:
			s.t.Logf("refused: %s %s %v %s", e.Reason, e.Workload.Name, e.Dst, e.Message)
		case audit.FlowOpen:
			flows[e.Flow]++
		case audit.FlowClose:
			flows[e.Flow]--
		}
	})
	s.t.Logf("audit: %v", kinds)
	open := 0
	for _, n := range flows {
		if n != 0 {
			open++
		}
	}
	if open != 0 {
		s.t.Errorf("%d of %d flows were not both opened and closed once", open, len(flows))
	}
	counts, complaints := map[string]int{}, 0
	paths, _ := filepath.Glob(s.path("/srv/results-*"))
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			s.t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			path, what, ok := strings.Cut(lines.Text(), " ")
			if !ok {
				continue // the last line of a killed program
			}
			counts[what]++
			n := exchanges[path]
			delete(exchanges, path)
			if what == "done" && n != 1 || what == "broken" && n > 1 || what == "hidden" && n != 0 {
				if complaints++; complaints <= 10 {
					s.t.Errorf("%s was %s: %d events", path, what, n)
				}
			}
		}
		f.Close()
	}
	// What is left belongs to programs that were killed before they could tell.
	unknown := len(exchanges)
	for path, n := range exchanges {
		if n > 1 {
			s.t.Errorf("%s of a killed program: %d events", path, n)
		}
	}
	s.t.Logf("requests: %v, and %d of killed programs", counts, unknown)
	if complaints > 10 {
		s.t.Errorf("%d requests have another number of events than they must", complaints)
	}
	if counts["done"] < s.plan.connections || unknown > 6*8*s.plan.connections/s.plan.loaders {
		s.t.Errorf("requests: %v, %d unknown", counts, unknown)
	}
}

// events reads the whole audit, rotated files too.
func (s *soak) events(each func(*audit.Event)) {
	s.t.Helper()
	paths, _ := filepath.Glob(s.path("/var/log/sallyport/audit*"))
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			s.t.Fatal(err)
		}
		r := audit.NewReader(f)
		for {
			var e audit.Event
			_, err := r.Next(&e)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				s.t.Fatalf("%s: %v", p, err)
			}
			each(&e)
		}
		f.Close()
	}
}

// ask asks the origin for what it noticed.
func (s *soak) ask() string {
	s.t.Helper()
	r := s.run2("curl", "-sS", "http://soak.example.com:9461/figures")
	return strings.TrimSpace(r.stdout)
}

// run2 runs a command on the host, outside the gate.
func (s *soak) run2(argv ...string) result {
	s.t.Helper()
	return s.host.run(s.command(argv...))
}
