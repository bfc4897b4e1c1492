package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/test/outside"

	"golang.org/x/sys/unix"
)

// workerUID is the account of the worker on these hosts.
const workerUID = 64999

// drainLimit is timeouts.drain in these tests: longer than any restart, short
// enough to wait for.
const drainLimit = 6 * time.Second

// services is a host with the units of sallyport and a load.
type services struct {
	h              *host
	m              *serviceManager
	keeper, worker *unit
	tagged         string
	conf           string
	// load is testdata/restartload.
	load *outside.Program
}

// newServices starts the keeper and the worker as units.
func newServices(t *testing.T) *services {
	t.Helper()
	s := prepareServices(t)
	s.start()
	return s
}

// start starts both.
func (s *services) start() {
	s.h.t.Helper()
	s.keeper.start()
	s.keeper.waitReady(20 * time.Second)
	s.worker.start()
	s.worker.waitReady(20 * time.Second)
}

// prepareServices makes the units of the keeper and the worker.
func prepareServices(t *testing.T) *services {
	t.Helper()
	h := newHost(t)
	name := strings.ReplaceAll(h.name, "-", "_")
	s := &services{h: h, tagged: name + "_mcp.slice", conf: "/srv/units/policy.yaml"}
	if r := h.sh(fmt.Sprintf(`set -e
mkdir -p /srv/etc /srv/units
cp -a /etc/passwd /etc/group /srv/etc
sed -i '/^sallyport:/d' /srv/etc/passwd /srv/etc/group
echo "sallyport:x:%d:%[1]d::/:/usr/sbin/nologin" >> /srv/etc/passwd
echo "sallyport:x:%[1]d:" >> /srv/etc/group
mount --bind /srv/etc/passwd /etc/passwd; mount --bind /srv/etc/group /etc/group
chmod 755 /srv /srv/etc /srv/units
cp /srv/bin/sallyport /srv/units/sallyport
# What does not come from the worker is counted where it leaves.
nft 'table inet count {
  chain out {
    type filter hook output priority 500; policy accept
    oifname "eth0" tcp flags syn / syn,ack meta skuid != %[1]d counter comment "leaked"
    oifname "eth0" tcp flags syn / syn,ack meta skuid %[1]d counter comment "proxied"
  }
}'
`, workerUID)); r.code != 0 {
		t.Fatalf("units: %v", r)
	}
	h.write(s.conf, fmt.Sprintf(`version: 1
slice: %s
nft_table: %s
mode: observe
log: { level: warn }
tls: { upstream_ca_files: [/usr/local/share/ca-certificates/internet.crt] }
audit: { file: { path: /var/log/sallyport/audit.jsonl, max_size: 8MB, max_files: 100 } }
timeouts: { drain: %s }
`, s.tagged, name, drainLimit))
	s.m = h.newServiceManager(name + ".slice")
	s.keeper = s.m.unit("keeper", "/srv/units/sallyport", "run", "--part", "keeper", "--config", s.conf)
	s.keeper.again, s.keeper.whole = true, true
	s.worker = s.m.unit("worker", "setpriv", "--reuid", strconv.Itoa(workerUID), "--regid", strconv.Itoa(workerUID), "--clear-groups",
		"--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "/srv/units/sallyport", "run", "--part", "worker", "--config", s.conf)
	s.worker.again = true
	t.Cleanup(func() {
		s.worker.halt(unix.SIGTERM)
		s.keeper.halt(unix.SIGTERM)
		// A worker that drains holds nothing that teardown removes.
		if r := h.run(h.command("/srv/units/sallyport", "teardown", "--stop", "--config", s.conf)); r.code != 0 {
			t.Errorf("teardown: %v\nkeeper: %s\nworker: %s", r, s.keeper.stderr, s.worker.stderr)
		}
	})
	return s
}

// restartFigures are those of one phase (testdata/restartload).
type restartFigures struct {
	Name                 string
	Requests, Refused    int
	Reasons, Ends        []string
	Closed, Last         int
	P50, P99, Max        float64
	KeptP99              float64 `json:"kept_p99"`
	KeptMax              float64 `json:"kept_max"`
	Ended, Clean, Open   int
	First                float64 `json:"first_end"`
	LastEnd              float64 `json:"last_end"`
	NotOpen              int     `json:"not_opened"`
	Leaked, Proxied, Old int     `json:"-"`
}

var buildLoad = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "restartload")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "restartload")
	c := exec.Command("go", "build", "-o", bin, "./testdata/restartload")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(bin)
})

// startLoad runs the load in a workload's cgroup.
func (s *services) startLoad(args ...string) {
	s.h.t.Helper()
	program, err := buildLoad()
	if err != nil {
		s.h.t.Fatal(err)
	}
	s.h.putProgram("/srv/units/load", program)
	cgroup := filepath.Join(s.m.tree, s.tagged, "load.service")
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		s.h.t.Fatal(err)
	}
	c := s.h.command(append([]string{"sh", "-c", `echo $$ > "$0"/cgroup.procs && exec "$@"`, cgroup, "/srv/units/load"}, args...)...)
	c.Stderr = os.Stderr
	s.load = outside.Start(s.h.t, c)
}

// phase begins one and gives the figures of the last.
func (s *services) phase(name string) restartFigures {
	s.h.t.Helper()
	s.load.Tell(name)
	line, err := s.load.Line()
	if err != nil {
		s.h.t.Fatalf("load: %v", err)
	}
	var f restartFigures
	if err := json.Unmarshal([]byte(line), &f); err != nil {
		s.h.t.Fatalf("%v: %s", err, line)
	}
	return f
}

// leaked counts the connections that left without the worker, and those with it.
func (s *services) leaked() (leaked, proxied int) {
	s.h.t.Helper()
	r := s.h.sh("nft list table inet count")
	for line := range strings.Lines(r.stdout) {
		fields := strings.Fields(line)
		for i, f := range fields {
			if f != "packets" {
				continue
			}
			n, _ := strconv.Atoi(fields[i+1])
			if strings.Contains(line, "leaked") {
				leaked = n
			} else {
				proxied = n
			}
		}
	}
	return leaked, proxied
}

// streamsAndAnswers is the origin: an event or a frame every so often, and short
// answers.
func streamsAndAnswers(w http.ResponseWriter, r *http.Request) {
	const every = 500 * time.Millisecond
	switch r.URL.Path {
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(w, "data: %d\n\n", i); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-time.After(every):
			}
		}
	case "/websocket":
		c, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(buffered, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
		for {
			buffered.WriteString("\x81\x05hello")
			if buffered.Flush() != nil {
				return
			}
			time.Sleep(every)
		}
	default:
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "ok\n")
	}
}

// replaceBinary puts another executable in the place of the units'. Where the
// environment names one of another version it is that.
func (s *services) replaceBinary() {
	s.h.t.Helper()
	from := os.Getenv("SALLYPORT_NEXT_BINARY")
	if from == "" {
		from = s.h.path("/srv/bin/sallyport")
	}
	b, err := os.ReadFile(from)
	if err != nil {
		s.h.t.Fatal(err)
	}
	s.h.putProgram("/srv/units/sallyport.new", b)
	if r := s.h.sh("mv /srv/units/sallyport.new /srv/units/sallyport"); r.code != 0 {
		s.h.t.Fatal(r)
	}
}

// TestRestart: under load, worker and keeper are restarted, together and apart,
// and replaced by another binary. Nobody is refused, nothing leaks, new
// connections wait for the start only, and streams end at the drain limit.
func TestRestart(t *testing.T) {
	s := newServices(t)
	s.h.net.setHandler(streamsAndAnswers)
	s.startLoad("-host", "api.example.com")
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"restart worker", s.worker.restart},
		{"restart keeper", s.keeper.restart},
		{"restart both", func() {
			var wg sync.WaitGroup
			wg.Go(s.worker.restart)
			wg.Go(s.keeper.restart)
			wg.Wait()
		}},
		{"replace the binary", func() {
			s.replaceBinary()
			s.keeper.restart()
		}},
	} {
		s.steady()
		s.phase(c.name)
		pid, begin := s.worker.main(), time.Now()
		c.do()
		asked := time.Now()
		s.keeper.waitReady(20 * time.Second)
		eventually(t, 20*time.Second, "another worker is started", func() bool { return s.worker.main() != pid })
		s.worker.waitReady(20 * time.Second)
		took := time.Since(begin)
		time.Sleep(time.Until(asked.Add(drainLimit + 2*time.Second)))
		f := s.phase("after " + c.name)
		f.Leaked, f.Proxied = s.leaked()
		printFigures(t, &f)
		t.Logf("%s: the next worker was ready after %s", c.name, took.Round(time.Millisecond))
		if f.Refused > 0 || f.NotOpen > 0 {
			t.Errorf("%s: %d requests and %d streams were refused: %q", c.name, f.Refused, f.NotOpen, f.Reasons)
		}
		if most := float64(patience(time.Second).Milliseconds()); f.P99 >= most || f.KeptP99 >= most {
			t.Errorf("%s: the 99th percentile of new connections is %.0f ms, of kept ones %.0f ms", c.name, f.P99, f.KeptP99)
		}
		if early := float64((drainLimit - 500*time.Millisecond).Milliseconds()); f.Ended < 190 || f.First < early {
			t.Errorf("%s: %d streams ended, the first after %.0f ms; the limit is %s", c.name, f.Ended, f.First, drainLimit)
		}
		if f.Clean != f.Ended {
			t.Errorf("%s: %d of %d streams ended cleanly: %q", c.name, f.Clean, f.Ended, f.Ends)
		}
		if f.Leaked > 0 || f.Proxied == 0 {
			t.Errorf("%s: %d connections reached the origin without the worker, %d with it", c.name, f.Leaked, f.Proxied)
		}
	}
	if got, want := strings.Join(s.keeper.stored(), " "), "admin dns4"; !strings.HasPrefix(got, want) {
		t.Errorf("stored: %s", got)
	}
	s.checkChain()
	s.worker.mu.Lock()
	beats := s.worker.beats
	s.worker.mu.Unlock()
	if beats == 0 {
		t.Error("no WATCHDOG=1 of the worker")
	}
}

// steady waits until all streams are open.
func (s *services) steady() {
	s.h.t.Helper()
	eventually(s.h.t, 30*time.Second, "all streams are open", func() bool {
		time.Sleep(500 * time.Millisecond)
		return s.phase("steady").Open >= 198
	})
}

// printFigures prints what a phase was like.
func printFigures(t *testing.T, f *restartFigures) {
	t.Helper()
	t.Logf("%s: %d requests, %d refused; new connections p50 %.1f p99 %.1f max %.1f ms; kept p99 %.1f max %.1f ms; %d last, %d closed idle; %d streams ended between %.0f and %.0f ms, %d cleanly; %d leaked of %d",
		f.Name, f.Requests, f.Refused, f.P50, f.P99, f.Max, f.KeptP99, f.KeptMax, f.Last, f.Closed, f.Ended, f.First, f.LastEnd, f.Clean, f.Leaked, f.Leaked+f.Proxied)
}
