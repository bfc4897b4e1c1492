package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inside runs a command in a workload's cgroup.
func (s *services) inside(argv ...string) result {
	s.h.t.Helper()
	return s.h.run(s.command(argv...))
}

// command prepares one.
func (s *services) command(argv ...string) *exec.Cmd {
	s.h.t.Helper()
	cgroup := filepath.Join(s.m.tree, s.tagged, "one.service")
	if err := os.Mkdir(cgroup, 0o755); err != nil && !os.IsExist(err) {
		s.h.t.Fatal(err)
	}
	return s.h.command(append([]string{"sh", "-c", `echo $$ > "$0"/cgroup.procs && exec "$@"`, cgroup}, argv...)...)
}

// get asks the origin from a workload's cgroup.
func (s *services) get(path string, more ...string) result {
	s.h.t.Helper()
	return s.inside(append([]string{"curl", "-sS", "-m", "15", "-o", "/dev/null", "-w", "%{http_code}", "http://api.example.com" + path}, more...)...)
}

// TestLock: the gate is shut without anything that serves, however often it is
// asked for, before and beside a keeper, and with a broken configuration.
func TestLock(t *testing.T) {
	t.Parallel()
	s := prepareServices(t)
	lock := func(want int) result {
		t.Helper()
		r := s.h.run(s.h.command("/srv/units/sallyport", "run", "--part", "lock", "--config", s.conf))
		if r.code != want {
			t.Fatalf("lock: %v", r)
		}
		return r
	}
	if _, err := os.Stat(filepath.Join(s.m.tree, s.tagged)); err == nil {
		t.Fatal("the slice is there before it is made")
	}
	lock(0)
	shut := func(when string) {
		t.Helper()
		before := s.h.net.connections.Load()
		for _, argv := range [][]string{
			{"curl", "-sS", "-m", "5", "--resolve", "api.example.com:80:" + originV4, "http://api.example.com/"},
			{"curl", "-sS", "-m", "5", "-g", "http://[" + originV6 + "]/"},
			{"bash", "-c", "echo x > /dev/udp/" + dnsV4 + "/5353"},
		} {
			if r := s.inside(argv...); r.code == 0 {
				t.Errorf("%s: %v succeeds: %v", when, argv, r)
			}
		}
		if n := s.h.net.connections.Load() - before; n != 0 {
			t.Errorf("%s: %d connections reached the origin", when, n)
		}
	}
	shut("locked")
	lock(0)
	shut("locked twice")
	good := s.h.read(s.conf)
	s.h.write(s.conf, good+"no such key: [\n")
	if r := lock(0); !strings.Contains(r.stderr, "configuration") {
		t.Errorf("nothing is said about a broken configuration: %v", r)
	}
	shut("locked with a broken configuration")
	s.h.write(s.conf, good)

	s.start()
	if r := s.get("/open"); r.stdout != "200" {
		t.Errorf("with keeper and worker: %v", r)
	}
	lock(0)
	if r := s.get("/still-open"); r.stdout != "200" {
		t.Errorf("after a lock beside the keeper: %v", r)
	}
	// Between two keepers: what the first one left is not disturbed.
	s.keeper.halt(unix.SIGTERM)
	lock(0)
	s.keeper.mu.Lock()
	s.keeper.stop = false
	s.keeper.mu.Unlock()
	s.keeper.start()
	s.keeper.waitReady(20 * time.Second)
	if r := s.get("/open-again"); r.stdout != "200" {
		t.Errorf("after a lock between two keepers: %v", r)
	}
	s.worker.halt(unix.SIGTERM)
	s.keeper.halt(unix.SIGKILL)
	lock(0)
	shut("locked after a keeper was killed")
}

// TestWorkerProof: the keeper takes nobody but the worker, and says why.
func TestWorkerProof(t *testing.T) {
	t.Parallel()
	s := newServices(t)
	socket := "/run/sallyport/service/worker.sock"
	connect := fmt.Sprintf(`import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(%q)
s.settimeout(60)
print(s.recv(4096).decode())`, socket)
	as := func(uid int) result {
		id := strconv.Itoa(uid)
		return s.h.run(s.h.command("setpriv", "--reuid", id, "--regid", id, "--clear-groups", "python3", "-c", connect))
	}
	if r := as(workerUID + 1); !strings.Contains(r.stderr, "PermissionError") {
		t.Errorf("another user: %v", r)
	}
	if r := as(0); !strings.Contains(r.stdout, `"refused"`) || !strings.Contains(r.stdout, "has uid 0") {
		t.Errorf("root: %v", r)
	}
	if r := as(workerUID); !strings.Contains(r.stdout, `"refused"`) || !strings.Contains(r.stdout, "another executable") {
		t.Errorf("another program of the worker's user: %v", r)
	}
	if r := s.h.run(s.h.command("/srv/units/sallyport", "run", "--part", "worker", "--config", s.conf)); r.code != 1 || !strings.Contains(r.stderr, "must not be root") {
		t.Errorf("the worker as root: %v", r)
	}
	if r := s.h.run(s.h.command("/srv/units/sallyport", "run", "--part", "cellar", "--config", s.conf)); r.code != 2 {
		t.Errorf("another part: %v", r)
	}
	if r := s.get("/"); r.stdout != "200" {
		t.Errorf("the worker that serves was disturbed: %v", r)
	}
	// A worker of another executable: refused, until the keeper is that, too.
	s.replaceBinary()
	s.worker.restart()
	eventually(t, 20*time.Second, "the unit says why it does not serve", func() bool {
		return strings.Contains(s.worker.stderr.String(), "restart sallyport-keeper.service")
	})
	s.keeper.restart()
	s.worker.waitReady(20 * time.Second)
	if r := s.get("/"); r.stdout != "200" {
		t.Errorf("after both were replaced: %v", r)
	}
}

// TestWithoutWorker: connections wait for the next worker for 10 s; then the
// listeners are closed, in the store too, and connects fail at once.
func TestWithoutWorker(t *testing.T) {
	t.Parallel()
	s := newServices(t)
	s.worker.halt(unix.SIGTERM)
	begin := time.Now()
	r := s.get("/waits", "--resolve", "api.example.com:80:"+originV4)
	if took := time.Since(begin); r.code == 0 || took < 5*time.Second || took > patience(14*time.Second) {
		t.Errorf("without a worker: after %s: %v", took, r)
	}
	eventually(t, 15*time.Second, "the listeners are gone from the store", func() bool {
		return !strings.Contains(strings.Join(s.keeper.stored(), " "), "tcp4")
	})
	begin = time.Now()
	if r := s.get("/fails", "--resolve", "api.example.com:80:"+originV4); r.code != 7 || late(begin, 2*time.Second) {
		t.Errorf("after 10 s without a worker: %s: %v", time.Since(begin), r)
	}
	s.worker.mu.Lock()
	s.worker.stop = false
	s.worker.mu.Unlock()
	s.worker.start()
	s.worker.waitReady(20 * time.Second)
	if r := s.get("/again"); r.stdout != "200" {
		t.Errorf("with the next worker: %v", r)
	}
	if got := strings.Join(s.keeper.stored(), " "); !strings.Contains(got, "tcp4.") || !strings.Contains(got, "dns6.") {
		t.Errorf("stored: %s", got)
	}
	// A worker that hangs is replaced, whoever notices first.
	pid := s.worker.main()
	var hung int
	for _, p := range s.h.processes() {
		if strings.Contains(strings.Join(p.argv, " "), "internal worker") {
			hung = p.pid
		}
	}
	s.h.kill(hung, unix.SIGSTOP)
	eventually(t, 30*time.Second, "another main process is started", func() bool { return s.worker.main() != pid })
	s.worker.waitReady(20 * time.Second)
	eventually(t, 5*time.Second, "the worker that hangs has ended", func() bool { return !living(hung) })
	if r := s.get("/after"); r.stdout != "200" {
		t.Errorf("after a worker that hung: %v", r)
	}
}

// TestRestartKilled: worker and keeper are killed under load. What was in work with the
// worker is lost; nothing leaks, and everything else is served.
func TestRestartKilled(t *testing.T) {
	s := newServices(t)
	s.h.net.setHandler(streamsAndAnswers)
	s.startLoad("-host", "api.example.com", "-streams", "40")
	for _, c := range []struct {
		name string
		u    *unit
	}{{"kill -9 worker's main process", s.worker}, {"kill -9 worker", nil}, {"kill -9 keeper", s.keeper}} {
		s.h.net.connections.Store(0)
		eventually(t, 30*time.Second, "all streams are open", func() bool {
			time.Sleep(300 * time.Millisecond)
			return s.phase("steady").Open >= 39
		})
		s.phase(c.name)
		for range 3 {
			time.Sleep(time.Second)
			pid := s.worker.main()
			if c.u == nil {
				for _, p := range s.h.processes() {
					if strings.Contains(strings.Join(p.argv, " "), "internal worker") && childOf(p.pid, pid) {
						s.h.kill(p.pid, unix.SIGKILL)
					}
				}
			} else {
				s.h.kill(c.u.main(), unix.SIGKILL)
			}
			begin := time.Now()
			eventually(t, 20*time.Second, "another worker is started", func() bool { return s.worker.main() != pid })
			started := time.Since(begin)
			s.worker.waitReady(20 * time.Second)
			t.Logf("%s: the next one started after %s and was ready after %s", c.name, started.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
		}
		time.Sleep(time.Second)
		f := s.phase("after")
		f.Leaked, f.Proxied = s.leaked()
		printFigures(t, &f)
		if f.Leaked > 0 || f.Proxied == 0 {
			t.Errorf("%s: %d connections reached the origin without the worker, %d with it", c.name, f.Leaked, f.Proxied)
		}
		// In work at a moment are some requests, each for some milliseconds.
		if f.Refused > f.Requests/20 {
			t.Errorf("%s: %d of %d requests were lost: %q", c.name, f.Refused, f.Requests, f.Reasons)
		}
	}
}

// childOf reports whether a process has that parent.
func childOf(pid, parent int) bool { return procStatus(pid)["PPid"] == strconv.Itoa(parent) }

// TestRestartKeeps: what outlives the worker and the keeper: counters of rate
// limits, direct flows, and the chain of the audit.
func TestRestartKeeps(t *testing.T) {
	t.Parallel()
	withinWindow(time.Hour, 2*time.Minute)
	s := prepareServices(t)
	s.h.write(s.conf, strings.Replace(s.h.read(s.conf), "mode: observe", `mode: enforce
rules:
  - { name: direct, match: { cidrs: [203.0.113.11/32], ports: [80], protocols: [tcp] }, action: allow, handling: direct }
  - { name: limited, match: { hosts: [api.example.com] }, action: allow, rate_limit: { hour: 10 } }`, 1))
	s.start()
	count := func(n int) (answers []string) {
		for range n {
			answers = append(answers, s.get("/limited").stdout)
		}
		return answers
	}
	if got := count(6); strings.Join(got, " ") != "200 200 200 200 200 200" {
		t.Errorf("before: %q", got)
	}
	s.h.putInmate()
	i := s.h.startInmate("sh", "-c", `echo $$ > "$0"/cgroup.procs && exec "$@"`, filepath.Join(s.m.tree, s.tagged, "one.service"), inmatePath)
	if o := i.do("hold", "203.0.113.11:80"); o.Err != "" {
		t.Fatalf("direct: %+v", o)
	}
	s.worker.restart()
	s.worker.waitReady(20 * time.Second)
	if got := count(6); strings.Join(got, " ") != "200 200 200 200 429 429" {
		t.Errorf("after a restart of the worker: %q", got)
	}
	s.keeper.restart()
	s.keeper.waitReady(20 * time.Second)
	eventually(t, 20*time.Second, "the next worker serves", func() bool { return s.get("/limited").stdout == "429" })
	if o := i.do("use"); !strings.Contains(o.Answer, "HTTP/1.1") {
		t.Errorf("the direct flow after a restart of the keeper: %+v", o)
	}
	s.checkChain()
}

// checkChain demands that each line of the audit follows one that is there, and
// that only the first line of a worker follows one that another follows too.
func (s *services) checkChain() {
	t := s.h.t
	t.Helper()
	followed := make(map[string]bool)
	known := make(map[string]bool)
	var data []byte
	files := 0
	for n := 100; n >= 0; n-- {
		name := "/var/log/sallyport/audit.jsonl"
		if n > 0 {
			name += "." + strconv.Itoa(n)
		}
		b, err := os.ReadFile(s.h.path(name))
		if os.IsNotExist(err) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		data = append(data, b...)
		files++
	}
	lines, starts := 0, 0
	for line := range bytes.Lines(data) {
		var e struct{ Prev, Hash, Kind, Message string }
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("line %d: %v: %q", lines+1, err, line)
		}
		lines++
		if e.Prev != "" && !known[e.Prev] {
			t.Errorf("line %d follows a line that is not there: %s", lines, line)
		}
		// Which of the two comes first in the file is not said.
		begins := strings.HasPrefix(e.Message, "worker started")
		if begins {
			starts++
		}
		if e.Prev != "" && followed[e.Prev] && !begins {
			t.Errorf("line %d follows a line that another one follows: %s", lines, line)
		}
		followed[e.Prev] = followed[e.Prev] || !begins
		known[e.Hash] = true
	}
	t.Logf("%d lines of audit in %d files, of %d workers", lines, files, starts)
	checkRecipe(t, data)
}
