package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

// TestNamesThatAreNoText: paths and arguments of Linux are bytes, and a workload
// chooses them. They end nobody's connection, and the command gets them as given.
func TestNamesThatAreNoText(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config("default: deny\nrules: [{name: all, match: {hosts: [api.example.com]}, action: allow}]\n"))
	worker := h.role("worker")
	curl := h.sh("command -v curl").stdout
	program := "/srv/bin/\xff\xfecurl"
	if r := h.sh("cp " + strings.TrimSpace(curl) + " $'/srv/bin/\\xff\\xfecurl'"); r.code != 0 {
		t.Fatalf("%v", r)
	}
	// A command line that is cut in the middle of a character.
	long := "X-Long: " + strings.Repeat("é", 4096)
	for _, argv := range [][]string{
		{program, "-sS", "https://api.example.com/bytes"},
		{"curl", "-sS", "-H", long, "https://api.example.com/long"},
		{"curl", "-sS", "-H", "x" + long, "https://api.example.com/longer"},
		{"sh", "-c", `test "$1" = "$(printf '\344')" && test "$X" = "$(printf '\374')" && curl -sS https://api.example.com/arguments`, "sh", "\xe4"},
	} {
		c := h.sallyport(append([]string{"exec", "--config", "/srv/daemon/policy.yaml", "--"}, argv...)...)
		c.Env = append(hostEnvironment(), "X=\xfc")
		if r := h.run(c); r.code != 0 || !strings.Contains(r.stdout, `"path":"/`) {
			t.Errorf("%.40q: %.300v", argv, r)
		}
	}
	if now := h.role("worker"); now != worker {
		t.Errorf("the worker ended: %d is %d now", worker, now)
	}
	h.waitAudit("the program by its name", func(e *audit.Event) bool {
		return e.Kind == audit.Exchange && e.HTTP.Path == "/bytes" && strings.HasPrefix(e.Workload.Exe, "/srv/bin/")
	})
}

// TestDaemonReadsWithTheCallersRights: a caller of the daemon names files in its
// environment; those that it may not read itself are not read for it.
func TestDaemonReadsWithTheCallersRights(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownAccounts()
	h.startDaemon(h.config("default: deny\n"))
	secret := outside.NewAuthority(t)
	h.write("/srv/secret/ca.pem", string(secret.PEM))
	h.write("/srv/home/alice/own.pem", string(h.net.ca.PEM))
	if r := h.sh("chmod 700 /srv/secret; chmod 644 /srv/home/alice/own.pem"); r.code != 0 {
		t.Fatalf("%v", r)
	}
	lines := strings.Split(strings.TrimSpace(string(secret.PEM)), "\n")
	for path, want := range map[string]bool{"/srv/secret/ca.pem": false, "/srv/home/alice/own.pem": true} {
		argv := append([]string{"/srv/bin/sallyport", "exec", "--config", "/srv/daemon/policy.yaml", "--"},
			"sh", "-c", `cat "$SSL_CERT_FILE" "$CURL_CA_BUNDLE"; ls -l "$SSL_CERT_FILE"`)
		c := h.command(append([]string{"env", "SSL_CERT_FILE=" + path}, as(alice, argv...)...)...)
		r := h.run(c)
		if strings.Contains(r.stdout, lines[1]) {
			t.Errorf("%s was read for alice, who may not", path)
		}
		if got := strings.Contains(r.stdout, "BEGIN CERTIFICATE"); !got && want {
			t.Errorf("%s: %v", path, r)
		}
	}
}

// TestDescriptorsOfCallers: what a caller passes to its command does not stay in
// the keeper, which would run out of places for its own.
func TestDescriptorsOfCallers(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownAccounts()
	d := h.startDaemon(h.config("default: deny\n"))
	count := func() int {
		entries, err := os.ReadDir("/proc/" + strconv.Itoa(d.pid) + "/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	c := h.command(as(alice, "bash", "-c",
		`for i in $(seq 20 219); do eval "exec $i</dev/null"; done; exec /srv/bin/sallyport exec --config /srv/daemon/policy.yaml -- sh -c 'echo started; ls /proc/self/fd | wc -l; cat'`)...)
	p := outside.Start(t, c)
	defer c.Wait()
	defer p.In.Close()
	var word string
	var n int
	if _, err := fmt.Fscan(p.Out, &word, &n); err != nil || word != "started" || n < 200 {
		t.Fatalf("%q %d %v", word, n, err)
	}
	// Its own are closed once the command has them.
	now := 0
	eventually(t, 20*time.Second, "the keeper has no more descriptors than before a command with 200", func() bool {
		now = count()
		return now <= before+20
	})
	t.Logf("the keeper has %d descriptors, had %d", now, before)
}

// TestAuditInAForeignDirectory: exec under sudo leaves no file of the caller's
// where the caller may make none.
func TestAuditInAForeignDirectory(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownAccounts()
	for dir, own := range map[string]bool{"/srv/foreign": false, "/srv/home/alice": true} {
		if r := h.sh("mkdir -p " + dir); r.code != 0 {
			t.Fatalf("%v", r)
		}
		if r := h.run(h.command(as(alice, "env", "-C", dir, "sudo", "/srv/bin/sallyport", "exec", "--", "true")...)); r.code != 0 {
			t.Fatalf("%s: %v", dir, r)
		}
		files, _ := filepath.Glob(h.path(dir + "/sallyport-audit.*.jsonl"))
		if len(files) != 1 {
			t.Fatalf("%s: %v", dir, files)
		}
		r := h.sh("stat -c %u:%a " + dir + "/*.jsonl")
		want := "0:600\n"
		if own {
			want = strconv.Itoa(alice) + ":600\n"
		}
		if r.stdout != want {
			t.Errorf("%s: audit file %q, want %q", dir, r.stdout, want)
		}
	}
}

// TestMetricsAreNobodysDestination: a rule that allows localhost opens what
// others serve there, not what sallyport tells of all workloads, however the
// workload writes it.
func TestMetricsAreNobodysDestination(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.startDaemon(h.config(`
metrics: { listen: "127.0.0.1:9595" }
rules: [{name: local, match: {hosts: [localhost, 127.0.0.1, 0.0.0.0]}, private: [127.0.0.0/8, "::1/128", 0.0.0.0/8], action: allow}]
`))
	if page := h.metricsPage(); !strings.Contains(page, "sallyport_build_info") {
		t.Fatalf("no metrics page for the host: %.200q", page)
	}
	for _, argv := range [][]string{
		{"http://127.0.0.1:9595/metrics"},
		{"http://localhost:9595/metrics"},
		{"--proxy", "http://203.0.113.9:3128", "http://localhost:9595/metrics"},
		{"--proxy", "http://203.0.113.9:3128", "http://0.0.0.0:9595/metrics"},
		{"--proxytunnel", "--proxy", "http://203.0.113.9:3128", "http://localhost:9595/metrics"},
		{"--proxytunnel", "--proxy", "http://203.0.113.9:3128", "http://127.0.0.1:9595/metrics"},
		{"--connect-to", "localhost:80:203.0.113.9:9595", "-H", "Host: localhost:9595", "http://localhost:80/metrics"},
	} {
		c := h.sallyport(append([]string{"exec", "--config", "/srv/daemon/policy.yaml", "--", "curl", "-sS"}, argv...)...)
		if r := h.run(c); strings.Contains(r.stdout, "sallyport_") {
			t.Errorf("%v: a workload read the metrics", argv)
		}
	}
}

// TestCommandCannotRewriteItsAudit: without a daemon the audit is the caller's
// file in the caller's directory, and the command runs as the caller.
func TestCommandCannotRewriteItsAudit(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownAccounts()
	script := `curl -sS https://api.example.com/evidence
for f in "$PWD"/sallyport-audit.*.jsonl /proc/self/cwd/sallyport-audit.*.jsonl; do
  : > "$f"; echo '{"forged":1}' >> "$f"; ln "$f" linked; mv "$f" moved; rm -f "$f"; cat "$f" linked
done 2>&1
mkdir sub; mv sallyport-audit.* sub/; cp -l sallyport-audit.* copied; truncate -s 0 copied`
	r := h.run(h.command(as(alice, "sudo", "/srv/bin/sallyport", "exec", "--", "sh", "-c", script)...))
	if !strings.Contains(r.stdout, "/evidence") {
		t.Fatalf("%v", r)
	}
	files, _ := filepath.Glob(h.path("/srv/home/alice/sallyport-audit.*.jsonl"))
	if len(files) != 1 {
		t.Fatalf("audit files %v: %v", files, r)
	}
	// The command's end is not held up for the last lines.
	var text string
	eventually(t, 20*time.Second, "the last lines are written", func() bool {
		b, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		text = string(b)
		return strings.Contains(text, "worker stopped")
	})
	if !strings.Contains(text, `"path":"/evidence"`) || strings.Contains(text, "forged") {
		t.Errorf("the command changed its audit: %.500s", text)
	}
}

// TestWorkerThatTakesNothing: a worker in hostile hands that answers nobody does
// not keep the locks from being compared and repaired.
func TestWorkerThatTakesNothing(t *testing.T) {
	best(t, "the longest absence of the table", hangs, func() (longest time.Duration) {
		h := newHost(t)
		h.startDaemon(h.config("default: deny\n"))
		worker := h.role("worker")
		h.kill(worker, unix.SIGSTOP)
		defer unix.Kill(worker, unix.SIGKILL) // if it was not replaced by then
		for range 4 {
			longest = max(longest, h.untabled())
			time.Sleep(50 * time.Millisecond) // for the report of the repair to be on its way
		}
		return longest
	})
}

// hangs is how long the table may be away at most while the worker takes nothing: what
// waits for the worker waits for 5 s or more.
const hangs = 3 * time.Second

// untabled flushes the tables and gives how long ours was away.
func (h *host) untabled() time.Duration {
	h.t.Helper()
	begin := time.Now()
	h.flush()
	eventually(h.t, 30*time.Second, "the table is back", h.tabled)
	return time.Since(begin)
}

// TestCallerWithoutNetwork: the daemon's commands are in the daemon's network. A
// caller that was given none, or another, must not get one by asking.
func TestCallerWithoutNetwork(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownAccounts()
	h.startDaemon(h.config("default: allow\n"))
	argv := as(alice, "/srv/bin/sallyport", "exec", "--config", "/srv/daemon/policy.yaml", "--", "curl", "-sS", "https://api.example.com/")
	if r := h.run(h.command(argv...)); r.code != 0 {
		t.Fatalf("%v", r)
	}
	for _, apart := range [][]string{{"unshare", "--net"}, {"chroot", "/"}} {
		r := h.run(h.command(append(apart, argv...)...))
		if want := apart[0] == "chroot"; (r.code == 0) != want {
			t.Errorf("%v: %v", apart, r)
		}
	}
	// A directory that is a root of its own, with what the caller needs in it.
	if r := h.sh(`set -e; for d in usr bin sbin lib lib64 etc proc dev run tmp srv; do
  if [ -d /$d ]; then mkdir -p /srv/jail/$d; mount --bind /$d /srv/jail/$d; fi
done
mount --bind /srv/bin/sallyport /srv/jail/srv/bin/sallyport; mount --bind /srv/etc/passwd /srv/jail/etc/passwd`); r.code != 0 {
		t.Fatalf("%v", r)
	}
	r := h.run(h.command(append([]string{"chroot", "/srv/jail"}, argv...)...))
	if r.code == 0 || !strings.Contains(r.stderr, "root directory") {
		t.Errorf("a caller in a chroot: %v", r)
	}
}

// TestRejectedPacketsDoNotHoldRepair: what the guard rejects is told to the
// worker. A workload can have as much rejected as it likes, and where the worker
// answers nobody, that must not keep the locks from being repaired either.
func TestRejectedPacketsDoNotHoldRepair(t *testing.T) {
	best(t, "the absence of the table", hangs, func() time.Duration { return rejectedMeanwhile(t) })
}

// rejectedMeanwhile gives how long the table was away.
func rejectedMeanwhile(t *testing.T) time.Duration {
	h := newHost(t)
	h.startDaemon(h.config("default: deny\n"))
	c := h.inside("sender.service", nobody, "python3", "-c", `
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("203.0.113.10", 443))
print("sending", flush=True)
while True:
    try: s.send(b"x")
    except OSError: pass
    time.sleep(0.02)
`)
	if _, err := outside.Start(t, c).Line(); err != nil {
		t.Fatalf("the sender did not start: %v", err)
	}
	h.waitAudit("a rejected packet", func(e *audit.Event) bool { return e.Reason == "guard_rejected" })
	worker := h.role("worker")
	h.kill(worker, unix.SIGSTOP)
	defer unix.Kill(worker, unix.SIGKILL)
	time.Sleep(time.Second) // for the next report to be on its way
	return h.untabled()
}
