package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

// newRedirecting makes a host whose daemon runs without BPF.
func newRedirecting(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	h.locks = "nft"
	return h
}

// threeWorkloads may each ask one name.
func threeWorkloads(h *host) (config string, units map[string]string) {
	var workloads, rules strings.Builder
	units = make(map[string]string)
	for name, asks := range map[string]string{"alpha": "other.example.com", "beta": "api.example.com", "gamma": "registry.example.com"} {
		units[name] = h.unit(name)
		fmt.Fprintf(&workloads, "  %s: { match: { unit: %s } }\n", name, units[name])
		fmt.Fprintf(&rules, "  - { name: for-%s, match: { workloads: [%s], hosts: [%s] }, action: allow }\n", name, name, asks)
	}
	return "timeouts: { drain: 1s }\nworkloads:\n" + workloads.String() + "rules:\n" + rules.String(), units
}

// TestRedirected: without BPF a workload's HTTP, HTTPS and DNS go through us all
// the same, what no rule allows is refused, and status, metrics and audit say that
// there is one lock.
func TestRedirected(t *testing.T) {
	t.Parallel()
	h := newRedirecting(t)
	h.putSock()
	config, units := threeWorkloads(h)
	d := h.startDaemon(h.config(config))
	if r := h.run(h.inside(units["alpha"], nobody, "curl", "-4sS", "http://other.example.com/first")); !strings.Contains(r.stdout, `"ok":true`) {
		t.Fatalf("alpha: %v\n%s", r, d.stderr)
	}
	if r := h.run(h.inside(units["beta"], nobody, "curl", "-6sS", "http://api.example.com/second")); !strings.Contains(r.stdout, `"ok":true`) {
		t.Fatalf("beta: %v\n%s", r, d.stderr)
	}
	if r := h.run(h.inside(units["beta"], nobody, "curl", "-4sS", "http://other.example.com/third")); !strings.Contains(r.stdout, "no_rule") && !strings.Contains(r.stderr, "resolve") {
		t.Errorf("beta asks for what is alpha's: %v", r)
	}
	s := h.status()
	if !s.Ready || !s.EnforcementActive {
		t.Errorf("status: %+v", s)
	}
	if !strings.HasPrefix(strings.Join(s.Problems, "\n"), "one lock") {
		t.Errorf("problems: %q", s.Problems)
	}
	if n := h.scrape("sallyport_enforcement_locks"); n != 1 {
		t.Errorf("%v locks", n)
	}
	eventually(t, 5*time.Second, "flows are closed", func() bool { return len(h.auditOf(audit.FlowClose)) >= 2 })
}

// redirectedConnections is how many each of three workloads makes.
const redirectedConnections = 2_000

// connectionsAtOnce is how many one process makes.
const connectionsAtOnce = 2_000

// TestRedirectedConnections: short connections of three workloads at once, from
// few source ports, so that each has a port that another one had a moment ago.
// Every one is answered, none reaches the origin but by the worker, and each is
// recorded for the workload that made it. SALLYPORT_CONNECTIONS is another number
// of them: make redirected has 20,000.
func TestRedirectedConnections(t *testing.T) {
	n := redirectedConnections
	if s := os.Getenv("SALLYPORT_CONNECTIONS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	h := newRedirecting(t)
	config, units := threeWorkloads(h)
	// One audit file for all of it.
	d := h.startDaemon(strings.Replace(h.config(config), "audit.jsonl", "audit.jsonl, max_size: 1GB", 1))
	hosts := map[string]string{"alpha": "other.example.com", "beta": "api.example.com", "gamma": "registry.example.com"}
	const ports = "20000-29999" // curl takes the first that is free
	// The workloads' own ports are not the worker's: whatever leaves the host with
	// one of them did not come from the worker.
	if r := h.sh(`sysctl -qw net.ipv4.ip_local_port_range="32768 60999" && nft 'add table inet watcher; add chain inet watcher out { type filter hook postrouting priority 300; }; add rule inet watcher out oifname != "lo" tcp sport ` + ports + ` counter; add rule inet watcher out oifname != "lo" tcp dport 80 counter'`); r.code != 0 {
		t.Fatalf("watcher: %v", r)
	}
	start := time.Now()
	var wg sync.WaitGroup
	for name, unit := range units {
		wg.Go(func() {
			for first := 1; first <= n; first += connectionsAtOnce {
				last := min(first+connectionsAtOnce-1, n)
				c := h.inside(unit, nobody, "curl", "-4sS", "--local-port", ports,
					"-H", "Connection: close", "-o", "/dev/null", "-w", "%{http_code}\n", fmt.Sprintf("http://%s/%s-[%d-%d]", hosts[name], name, first, last))
				r := h.run(c)
				if got := strings.Count(r.stdout, "200\n"); r.code != 0 || got != last-first+1 {
					t.Errorf("%s: %d of %d answered, exit %d, %.300s", name, got, last-first+1, r.code, r.stderr)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d connections in %v", 3*n, time.Since(start))
	want := 3 * n
	eventually(t, 30*time.Second, "every exchange is recorded", func() bool { return h.scrape("sallyport_requests_total") >= float64(want) })
	out := h.sh("nft list table inet watcher").stdout
	if !strings.Contains(out, "sport "+ports+" counter packets 0 ") || strings.Contains(out, "dport 80 counter packets 0 ") {
		t.Errorf("what left the host: %s", out)
	}
	d.stop()
	seen := make(map[string]int)
	for _, e := range h.auditOf(audit.Exchange) {
		name, _, _ := strings.Cut(strings.TrimPrefix(e.HTTP.Path, "/"), "-")
		if e.Workload.Name != name || e.Verdict != "allow" {
			t.Fatalf("%s was recorded for %s: %s", e.HTTP.Path, e.Workload.Name, e.Verdict)
		}
		seen[e.HTTP.Path]++
	}
	if len(seen) != want {
		t.Errorf("%d of %d paths were recorded", len(seen), want)
	}
	for path, times := range seen {
		if times != 1 {
			t.Errorf("%s was recorded %d times", path, times)
		}
	}
}

// TestRedirectedThief: a local process that takes our ports when the daemon was
// killed gets no connection and no datagram; with the daemon alive it cannot have
// them.
func TestRedirectedThief(t *testing.T) {
	t.Parallel()
	h := newRedirecting(t)
	h.putSock()
	config, units := threeWorkloads(h)
	d := h.startDaemon(h.config(config))
	bind := func(kind, number, port string) []string {
		return []string{"socket inet " + kind + " " + number, "bind 127.0.0.1 " + port}
	}
	for _, ports := range [][]string{bind("stream", "6", "15001"), bind("dgram", "17", "15053")} {
		if r := outside.ResultOf(h.sockLines(h.outside(nobody, append([]string{sockPath}, ports...)...)), "bind"); r != "EADDRINUSE" {
			t.Errorf("%q with the daemon alive: %s", ports, r)
		}
	}
	worker := h.role("worker")
	h.kill(d.pid, unix.SIGKILL)
	eventually(t, 10*time.Second, "the worker ends with its keeper", func() bool { return !living(worker) })
	script := `import socket,sys
t=socket.socket(); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); t.bind(("127.0.0.1",15001)); t.listen(); t.settimeout(0.2)
u=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1",15053)); u.settimeout(0.2)
print("bound", flush=True)
sys.stdin.readline()
for what in (lambda: t.accept(), lambda: u.recvfrom(100)):
    try: print("stolen", what()[1])
    except OSError: print("nothing")
`
	thief := h.outside(nobody, "python3", "-c", script)
	in, err := thief.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := thief.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := thief.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	if n, _ := out.Read(line); !strings.HasPrefix(string(line[:n]), "bound") {
		t.Fatalf("the thief has no ports: %q", line[:n])
	}
	for range 5 {
		if r := h.sock(units["alpha"], nobody, "socket inet stream 6", "connect "+originV4+" 80"); outside.ResultOf(r, "connect") == "ok" {
			t.Errorf("connected to a thief: %q", r)
		}
	}
	h.run(h.inside(units["alpha"], nobody, "timeout", "1", "python3", "-c", `import socket
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)
try: s.sendto(b"x",("`+dnsV4+`",53))
except OSError: pass`))
	in.Close()
	n, _ := out.Read(line)
	m, _ := out.Read(line[n:])
	if got := string(line[:n+m]); strings.Contains(got, "stolen") {
		t.Errorf("the thief says %q", got)
	}
	thief.Wait()
}

// TestRedirectedFlushed: another program's flush of all tables, again and again,
// lets nothing out while the daemon lives, and the table comes back.
func TestRedirectedFlushed(t *testing.T) {
	t.Parallel()
	h := newRedirecting(t)
	config, units := threeWorkloads(h)
	h.startDaemon(h.config(config))
	reached := h.net.connections.Load()
	for range 10 {
		h.flush()
		if r := h.run(h.inside(units["alpha"], nobody, "curl", "-4sS", "-m", "3", "http://"+originV4+"/leak")); strings.Contains(r.stdout, `"ok":true`) {
			t.Fatalf("a request got past the gate: %v", r)
		}
		start := time.Now()
		eventually(t, 5*time.Second, "the table is back", func() bool {
			return strings.Contains(h.sh("nft list tables").stdout+"\n", " "+strings.ReplaceAll(h.name, "-", "_")+"\n")
		})
		t.Logf("back within %v", time.Since(start))
	}
	if n := h.net.connections.Load() - reached; n > 0 {
		t.Errorf("%d connections reached the origin", n)
	}
}

// TestRedirectedStays: the gate stays shut when the daemon is killed or stopped, a
// new one takes it over, and teardown leaves nothing of it.
func TestRedirectedStays(t *testing.T) {
	t.Parallel()
	h := newRedirecting(t)
	config, units := threeWorkloads(h)
	d := h.startDaemon(h.config(config))
	w := h.tap()
	refused := func(when string) {
		t.Helper()
		for _, url := range []string{"http://" + originV4 + "/leak", "http://[" + originV6 + "]/leak"} {
			if r := h.run(h.inside(units["beta"], nobody, "curl", "-sS", "-m", "3", url)); r.code == 0 {
				t.Errorf("%s: %v", when, r)
			}
		}
	}
	h.kill(d.pid, unix.SIGKILL)
	<-d.ended
	w.packets()
	refused("killed")
	if seen := w.packets(); len(seen) > 0 {
		t.Errorf("left the host after a kill: %q", seen)
	}
	again := h.startDaemon(h.config(config))
	if r := h.run(h.inside(units["beta"], nobody, "curl", "-4sS", "http://api.example.com/again")); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("taken over: %v", r)
	}
	again.stop()
	w.packets()
	refused("stopped")
	if seen := w.packets(); len(seen) > 0 {
		t.Errorf("left the host after a stop: %q", seen)
	}
	if r := h.run(h.sallyport("teardown", "--stop", "--config", "/srv/daemon/policy.yaml")); r.code != 0 {
		t.Errorf("teardown: %v", r)
	}
	if out := h.sh("nft list tables").stdout; out != "" {
		t.Errorf("tables are left: %q", out)
	}
}

// TestRedirectedExec: a command without a daemon, and without BPF.
func TestRedirectedExec(t *testing.T) {
	t.Parallel()
	h := newRedirecting(t)
	h.write("/srv/policy.yaml", h.config("rules: [{ name: api, match: { hosts: [api.example.com] }, action: allow }]\n"))
	ask := func(url string) result {
		return h.run(h.sallyport("exec", "--locks", "nft", "--config", "/srv/policy.yaml", "--", "curl", "-4sS", url))
	}
	if r := ask("https://api.example.com/exec"); !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("exec: %v", r)
	}
	if r := ask("http://" + originV4 + ":7443/"); strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("exec, not allowed: %v", r)
	}
	eventually(t, 10*time.Second, "nothing of it is left", func() bool { return h.sh("nft list tables").stdout == "" })
}
