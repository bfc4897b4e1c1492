package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestExecStdio: what goes in and comes out is the command's, byte for byte,
// and nobody of ours keeps the pipes open after its end.
func TestExecStdio(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	data := make([]byte, 1<<20)
	rand.New(rand.NewSource(1)).Read(data)
	// Input goes to both outputs, differently for each. Nothing is left to the
	// background: that ends with the command.
	c := h.command(h.exec("", "bash", "-c", "cat > /srv/input; cat /srv/input; tr '\\000-\\377' '\\001-\\377\\000' < /srv/input >&2")...)
	var stdout, stderr bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(data), &stdout, &stderr
	if r := h.run(c); r.code != 0 {
		t.Fatalf("%v", r)
	}
	if !bytes.Equal(stdout.Bytes(), data) {
		t.Errorf("stdout: %d bytes, want %d the same", stdout.Len(), len(data))
	}
	want := bytes.Clone(data)
	for i := range want {
		want[i]++
	}
	if sha256.Sum256(stderr.Bytes()) != sha256.Sum256(want) {
		t.Errorf("stderr: %d bytes, want %d others", stderr.Len(), len(want))
	}
	if r := h.run(h.command(h.exec("", "true")...)); r.stdout != "" || r.stderr != "" {
		t.Errorf("sallyport says something without -v: %v", r)
	}
	r := h.run(h.command(h.binary, "exec", "-v", "--", "true"))
	if r.stdout != "" || !strings.Contains(r.stderr, "sallyport: workload true") {
		t.Errorf("with -v: %v", r)
	}
}

// TestExecEndOfFile: a reader sees the end of each pipe as soon as the command
// closes it or ends, also of a pipe beyond 0, 1 and 2; the command sees the end
// of its input.
func TestExecEndOfFile(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.warmUp()
	extra, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	c := h.command(h.exec("", "bash", "-c", "echo out; exec >&-; echo extra >&5; exec 5>&-; cat >/dev/null; echo err >&2; exec 2>&-; read forever </dev/zero & wait")...)
	c.ExtraFiles = []*os.File{nil, nil, theirs} // 5, a number that no process of ours has a use for
	stdin, _ := c.StdinPipe()
	stdout, _ := c.StdoutPipe()
	stderr, _ := c.StderrPipe()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	ends := func(name, want string, r io.Reader) {
		t.Helper()
		done := make(chan string)
		go func() {
			b, _ := io.ReadAll(r)
			done <- string(b)
		}()
		select {
		case got := <-done:
			if got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s has no end although the command closed it", name)
		}
	}
	ends("stdout", "out\n", stdout)
	ends("descriptor 5", "extra\n", extra)
	stdin.Close()
	ends("stderr", "err\n", stderr)
	h.kill(c.Process.Pid, unix.SIGKILL)
	c.Wait()
}

// TestExecStatus: the exit status is the command's own, and that of env(1)
// where there is no command.
func TestExecStatus(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.write("/srv/notexec", "not executable")
	for _, c := range []struct {
		argv []string
		want int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 1"}, 1},
		{[]string{"sh", "-c", "exit 2"}, 2},
		{[]string{"sh", "-c", "exit 255"}, 255},
		{[]string{"/srv/notexec"}, 126},
		{[]string{"/srv"}, 126},
		{[]string{"no-such-command"}, 127},
		{[]string{"/no/such/command"}, 127},
	} {
		r := h.run(h.command(h.exec("", c.argv...)...))
		if r.code != c.want {
			t.Errorf("%v: exit %d, want %d: %s", c.argv, r.code, c.want, r.stderr)
		}
		if c.want >= 126 && c.want < 128 && !strings.HasPrefix(r.stderr, "sallyport: exec: ") {
			t.Errorf("%v: stderr %q", c.argv, r.stderr)
		}
	}
	for _, s := range []syscall.Signal{unix.SIGTERM, unix.SIGKILL, unix.SIGSEGV, unix.SIGINT, unix.SIGUSR1} {
		c := h.command(h.exec("", "sh", "-c", fmt.Sprintf("kill -%d $$", s))...)
		c.Run()
		if ws := c.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != s {
			t.Errorf("death by %s: %v", s, c.ProcessState)
		}
	}
	eventually(t, goneAfter, "all gone", func() bool { return len(h.processes()) == 0 })
}

// TestExecSignals: signals reach the command, stop and continue too, and what
// was ignored or blocked stays so.
func TestExecSignals(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putInmate()
	c := h.command(h.exec("", inmatePath, "signals")...)
	out, _ := c.StdoutPipe()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := linesOf(out)
	next := func() string {
		t.Helper()
		select {
		case line := <-lines:
			return line
		case <-time.After(30 * time.Second):
			c.Process.Kill()
			t.Fatal("a signal did not arrive")
			return ""
		}
	}
	if got := next(); got != "ready" {
		t.Fatalf("%q", got)
	}
	for _, s := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGWINCH, unix.SIGPIPE} {
		h.kill(c.Process.Pid, s)
		if got := next(); got != strconv.Itoa(int(s)) {
			t.Errorf("%s arrived as %q", s, got)
		}
	}
	h.kill(c.Process.Pid, unix.SIGSTOP)
	eventually(t, 20*time.Second, "stopped", func() bool { return strings.HasPrefix(procStatus(c.Process.Pid)["State"], "T") })
	h.kill(c.Process.Pid, unix.SIGUSR1)
	h.kill(c.Process.Pid, unix.SIGCONT)
	if got := []string{next(), next()}; !slices.Contains(got, "10") || !slices.Contains(got, "18") {
		t.Errorf("after STOP and CONT: %v", got)
	}
	h.kill(c.Process.Pid, unix.SIGUSR2)
	if err := c.Wait(); err != nil {
		t.Error(err)
	}

	// Signals 1 (HUP), 13 (PIPE) and 15 (TERM) ignored.
	with := h.run(h.command(append([]string{"bash", "-c", `trap '' HUP PIPE TERM; exec "$@"`, "-"}, h.exec("", "grep", "-E", "SigIgn|SigBlk", "/proc/self/status")...)...))
	without := h.run(h.command("bash", "-c", `trap '' HUP PIPE TERM; exec grep -E "SigIgn|SigBlk" /proc/self/status`))
	if with.stdout != without.stdout || !strings.Contains(with.stdout, "SigIgn") {
		t.Errorf("signal state with exec:\n%s\nwithout:\n%s%s", with.stdout, without.stdout, with.stderr)
	}
}

// TestExecIsTheCommand: what the command sees of itself is as without exec: pid,
// parent, group, session, children, environment, directory, umask, limits.
func TestExecIsTheCommand(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	look := `echo $$ $PPID; ps -o pgid=,sid= -p $$ | tr -s ' '; read c < /proc/$$/task/$$/children; echo "children: $c"; pwd; umask; ulimit -a; nice; grep -E '^(Uid|Gid|Groups)' /proc/$$/status`
	prepare := `umask 027; ulimit -n 321 -c 7; cd /srv/home; export KEPT='a b' ; renice -n 5 $$ >/dev/null; `
	h.sh("mkdir -p /srv/home")
	for _, variant := range []string{"", prepare} {
		wrapped := h.command(append([]string{"bash", "-c", variant + `echo $$ $PPID; exec "$@"`, "-"}, h.exec("", "bash", "-c", look)...)...)
		bare := h.command("bash", "-c", variant+`echo $$ $PPID; exec "$@"`, "-", "bash", "-c", look)
		w, b := strings.SplitN(h.run(wrapped).stdout, "\n", 4), strings.SplitN(h.run(bare).stdout, "\n", 4)
		if len(w) != 4 || len(b) != 4 {
			t.Fatalf("%q, %q", w, b)
		}
		if w[0] != w[1] {
			t.Errorf("pid and parent were %q, are %q", w[0], w[1])
		}
		if w[3] != b[3] {
			t.Errorf("with exec:\n%s\nwithout:\n%s", w[3], b[3])
		}
	}
	env := h.run(h.command(append([]string{"env", "-i", "PATH=/usr/bin:/bin", "KEPT=a b", "EMPTY="}, h.exec("", "env", "-0")...)...))
	var names []string
	for _, v := range strings.Split(strings.TrimSuffix(env.stdout, "\x00"), "\x00") {
		name, value, _ := strings.Cut(v, "=")
		names = append(names, name)
		if name == "KEPT" && value != "a b" || name == "EMPTY" && value != "" || name == "PATH" && value != "/usr/bin:/bin" {
			t.Errorf("%q", v)
		}
	}
	for _, name := range names {
		switch name {
		case "PATH", "KEPT", "EMPTY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO",
			"CARGO_HTTP_CAINFO", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "NODE_EXTRA_CA_CERTS", "DENO_CERT", "JAVA_TOOL_OPTIONS":
		default:
			t.Errorf("the command has a variable %s that nobody set", name)
		}
	}
}

// TestExecUmask: whatever the caller's umask, the trust given to the command can
// be read by it, and sallyport's own files are as always.
func TestExecUmask(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownAccounts()
	h.sh("chmod 1777 /srv")
	r := h.run(h.command(append([]string{"bash", "-c", `umask 0777; exec "$@"`, "-", h.binary, "exec", "--user", "alice", "--"}, "bash", "-c", "umask; cat $SSL_CERT_FILE | wc -l; curl -sS https://api.example.com/x")...))
	if r.code != 0 || !strings.HasPrefix(r.stdout, "0777") || !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("%v", r)
	}
	if r := h.run(h.command(h.exec("", "true")...)); r.code != 0 {
		t.Errorf("after it: %v", r)
	}
}

// TestExecBackground: what the command leaves in the background ends with it.
func TestExecBackground(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	r := h.run(h.command(h.exec("", "bash", "-c", "setsid nohup sleep 1234 </dev/null >/dev/null 2>&1 & echo $!")...))
	pid, err := strconv.Atoi(strings.TrimSpace(r.stdout))
	if err != nil {
		t.Fatalf("%v", r)
	}
	eventually(t, goneAfter, "the background process is gone", func() bool { return !living(pid) })
	eventually(t, goneAfter, "all gone", func() bool { return len(h.processes()) == 0 })
}

// TestExecSideBySide: five at once, each with its own gate.
func TestExecSideBySide(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putInmate()
	h.warmUp()
	before := h.snapshot()
	const n = 5
	results := make(chan result, n)
	for range n {
		c := h.command(h.exec("", "sh", "-c", "curl -sS https://api.example.com/x && curl -sS http://v6.example.com/y")...)
		go func() { results <- h.run(c) }()
	}
	for range n {
		if r := <-results; r.code != 0 || strings.Count(r.stdout, `"ok":true`) != 2 {
			t.Errorf("%v", r)
		}
	}
	eventually(t, goneAfter, "nothing left", func() bool { return len(h.snapshot().minus(before)) == 0 })
	files, _ := filepath.Glob(h.path("/srv/sallyport-audit.*.jsonl"))
	if len(files) < n {
		t.Errorf("%d audit files", len(files))
	}
}

// TestExecAuditOwner: without a configuration the mode is observe, and the
// audit lies where the caller is and belongs to the caller.
func TestExecAuditOwner(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownAccounts()
	h.sh("mkdir /srv/there; chown 2001:2001 /srv/there")
	c := h.command("env", "-C", "/srv/there", h.binary, "exec", "--user", "alice", "--", "sh", "-c", "echo $$; curl -sS https://api.example.com/x")
	r := h.run(c)
	pid, _, _ := strings.Cut(r.stdout, "\n")
	var st unix.Stat_t
	if err := unix.Stat(h.path("/srv/there/sallyport-audit."+pid+".jsonl"), &st); err != nil || st.Uid != alice || st.Mode&0o777 != 0o600 {
		t.Errorf("%v, uid %d, mode %o: %v", err, st.Uid, st.Mode, r)
	}
	if r := h.run(exec.Command("true")); r.code != 0 {
		t.Error(r)
	}
}
