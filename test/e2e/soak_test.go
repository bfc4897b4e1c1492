package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A soakPlan is how hard and how long. Its defaults are for every run of the
// tests; scripts/soak has the long one.
type soakPlan struct {
	duration             time.Duration
	connections, loaders int
	seed                 uint64
}

func newSoakPlan(t *testing.T) soakPlan {
	p := soakPlan{duration: 8 * time.Second, connections: 400, loaders: 4}
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
	// What fails in a short run is what a change did.
	if p.seed == 0 && p.long() {
		p.seed = rand.Uint64N(1 << 30)
	}
	return p
}

// long says that there is time to look for what grows slowly.
func (p soakPlan) long() bool { return p.duration >= 2*time.Minute }

const soakRules = `
timeouts: { idle: 15s }
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
	s.closed()
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
	// The kernel tracks a connection for two minutes after its end: not here, so
	// that one that nobody ended is seen.
	if r := h.sh("cd /proc/sys/net/netfilter && for s in tcp_timeout_time_wait tcp_timeout_fin_wait tcp_timeout_last_ack tcp_timeout_close_wait tcp_timeout_close udp_timeout udp_timeout_stream; do echo 3 > nf_conntrack_$s; done"); r.code != 0 {
		t.Fatalf("conntrack: %v", r)
	}
	s.worker = h.workerPID()
	r := h.run(h.command(h.execBy("curl", "-sS", "-o", "/dev/null", "-w", "%{http_version}", "https://soak.example.com:9460/figures")...))
	if r.stdout != "2" {
		t.Fatalf("the gate speaks %q to a client and an origin that both have HTTP/2: %v", r.stdout, r)
	}
	return s
}

// start starts one program behind the gate.
func (s *soak) start(name string, duration time.Duration, connections int, seed uint64) (*exec.Cmd, *syncBuffer) {
	s.t.Helper()
	argv := []string{s.program, "load", "-name", name, "-seed", strconv.FormatUint(seed, 10), "-connections", strconv.Itoa(connections), "-duration", duration.String(), "-results", "/srv/results-" + name}
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
		p.c, p.out = s.start(p.name, max(time.Until(end), time.Second), s.plan.connections/s.plan.loaders, s.plan.seed+uint64(serial))
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
		var victims []int
		eventually(s.t, 30*time.Second, "load "+p.name+" runs", func() bool {
			victims = s.loaderPIDs(p.name)
			return len(victims) > 0 || len(p.done) > 0
		})
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
		case <-time.After(time.Until(end) + 150*time.Second):
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

// ask asks the origin for what it noticed, outside the gate.
func (s *soak) ask() string {
	s.t.Helper()
	return strings.TrimSpace(s.sh("curl -sS http://soak.example.com:9461/figures").stdout)
}
