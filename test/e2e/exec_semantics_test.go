package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
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
	eventually(t, 5*time.Second, "all gone", func() bool { return len(h.processes()) == 0 })
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
	eventually(t, 5*time.Second, "stopped", func() bool { return strings.HasPrefix(procStatus(c.Process.Pid)["State"], "T") })
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
	eventually(t, 5*time.Second, "all gone", func() bool { return len(h.processes()) == 0 })
}

// TestExecTerminal: the command's terminal is the caller's, with its job
// control.
func TestExecTerminal(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := h.terminal("bash", "--norc", "--noprofile", "--noediting", "-i")
	p.line("PS1='%''% '; stty -echo; cd /srv")
	p.expect("%% ", 10*time.Second)
	run := strings.Join(h.exec("", ""), " ")
	p.line(run + `bash -c 'test -t 0 && test -t 1 && test -t 2 && stty size && echo is-a-terminal'`)
	if got := p.expect("%% ", 10*time.Second); !strings.Contains(got, "33 99") || !strings.Contains(got, "is-a-terminal") {
		t.Errorf("terminal: %q", got)
	}
	p.line(run + "sleep 1000")
	eventually(t, 10*time.Second, "sleep runs", func() bool { return h.runs("sleep 1000") })
	p.write("\x1a")
	if got := p.expect("%% ", 5*time.Second); !strings.Contains(got, "Stopped") {
		t.Errorf("Ctrl-Z: %q", got)
	}
	p.line("jobs -l")
	if got := p.expect("%% ", 5*time.Second); !strings.Contains(got, "Stopped") {
		t.Errorf("jobs: %q", got)
	}
	p.line("fg")
	p.expect("sleep 1000", 5*time.Second)
	eventually(t, 5*time.Second, "sleep goes on", func() bool {
		for _, q := range h.processes() {
			if strings.Join(q.argv, " ") == "sleep 1000" {
				return strings.HasPrefix(procStatus(q.pid)["State"], "S")
			}
		}
		return false
	})
	p.write("\x03")
	p.expect("%% ", 5*time.Second)
	p.line("echo status $?")
	if got := p.expect("%% ", 5*time.Second); !strings.Contains(got, "status 130") {
		t.Errorf("Ctrl-C: %q", got)
	}
}

// runs reports whether a process with this command line runs on the host.
func (h *host) runs(line string) bool {
	return slices.ContainsFunc(h.processes(), func(p hostProcess) bool { return strings.Join(p.argv, " ") == line })
}

// A terminal is the person's end of a pseudo terminal.
type terminal struct {
	t      *testing.T
	master *os.File
	mu     sync.Mutex
	seen   strings.Builder
	from   int
}

// terminal runs a command line with a terminal of 33 rows and 99 columns that
// controls it.
func (h *host) terminal(argv ...string) *terminal {
	h.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 99})
	}
	if err != nil {
		h.t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer slave.Close()
	if err := os.Chmod(slave.Name(), 0o666); err != nil { // as its user's own
		h.t.Fatal(err)
	}
	c := h.command(argv...)
	c.Stdin, c.Stdout, c.Stderr = slave, slave, slave
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	p := &terminal{t: h.t, master: master}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := unix.Read(fd, buf)
			if n <= 0 || err != nil {
				return
			}
			p.mu.Lock()
			p.seen.Write(buf[:n])
			p.mu.Unlock()
		}
	}()
	h.t.Cleanup(func() {
		unix.Kill(-c.Process.Pid, unix.SIGKILL)
		c.Wait()
		master.Close()
	})
	return p
}

func (p *terminal) write(s string) {
	p.t.Helper()
	if _, err := unix.Write(int(p.master.Fd()), []byte(s)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *terminal) line(s string) { p.t.Helper(); p.write(s + "\n") }

// expect waits for a text beyond what earlier calls returned, and gives all up
// to it.
func (p *terminal) expect(text string, within time.Duration) string {
	p.t.Helper()
	var got string
	for start := time.Now(); ; {
		p.mu.Lock()
		got = p.seen.String()[p.from:]
		i := strings.Index(got, text)
		if i >= 0 {
			p.from += i + len(text)
		}
		p.mu.Unlock()
		if i >= 0 {
			return got[:i+len(text)]
		}
		if late(start, within) {
			p.t.Fatalf("terminal: no %q within %s in %q", text, within, got)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestWorkerPrivileges reads from /proc what the worker is.
func TestWorkerPrivileges(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"run", "exec"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.ownAccounts()
			h.putInmate()
			var i *inmate
			if name == "run" {
				h.startDaemon(h.config("mode: observe\n"))
				i = h.startInmate(as(alice, h.binary, "exec", "--config", "/srv/daemon/policy.yaml", "--", inmatePath)...)
			} else {
				h.sh("chmod 1777 /srv")
				i = h.startInmate(h.binary, "exec", "--user", "alice", "--", inmatePath)
			}
			pid := h.role("worker")
			worker, command := procStatus(pid), procStatus(i.pid)
			checkPowerless(t, "worker", worker)
			checkPowerless(t, "command", command)
			if command["Uid"] != strings.TrimSpace(strings.Repeat(strconv.Itoa(alice)+" ", 4)) {
				t.Errorf("command: uids %s", command["Uid"])
			}
			if worker["Uid"] == command["Uid"] || worker["Gid"] == command["Gid"] {
				t.Errorf("the command has the worker's ids: %s, %s", worker["Uid"], worker["Gid"])
			}
			if worker["Groups"] != "" {
				t.Errorf("worker: groups %s", worker["Groups"])
			}
			// Files in /proc of a process that is not dumpable are root's (proc(5)).
			var st unix.Stat_t
			if err := unix.Stat(fmt.Sprintf("/proc/%d/environ", pid), &st); err != nil || st.Uid != 0 {
				t.Errorf("worker: /proc/PID/environ belongs to %d (%v): it is dumpable", st.Uid, err)
			}
		})
	}
}

// checkPowerless looks at ids, capability sets and no_new_privs of a process.
func checkPowerless(t *testing.T, who string, status map[string]string) {
	t.Helper()
	for _, field := range []string{"Uid", "Gid"} {
		ids := strings.Fields(status[field])
		if len(ids) != 4 || ids[0] == "0" || slices.ContainsFunc(ids, func(id string) bool { return id != ids[0] }) {
			t.Errorf("%s: %s %q, want one that is not root", who, field, status[field])
		}
	}
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if status[set] != "0000000000000000" {
			t.Errorf("%s: %s is %q", who, set, status[set])
		}
	}
	if status["NoNewPrivs"] != "1" {
		t.Errorf("%s: NoNewPrivs is %q", who, status["NoNewPrivs"])
	}
}

// TestExecConfinement: what the command cannot do, as contract.md §1 lists it.
func TestExecConfinement(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownAccounts()
	h.putInmate()
	h.sh("chmod 1777 /srv")
	outside := h.command(as(alice, "sleep", "1000")...)
	if err := outside.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outside.Process.Kill(); outside.Wait() })
	eventually(t, 5*time.Second, "a process of the same user", func() bool { return h.runs("sleep 1000") })
	// Sockets of a resolver, a bus, an engine, and sallyport's own directories.
	for _, path := range []string{"/run/nscd/socket", "/run/dbus/system_bus_socket", "/run/docker.sock", "/run/systemd/resolve/io.systemd.Resolve"} {
		h.listenUnix(path)
	}
	inside := func(flags []string, argv ...string) string {
		t.Helper()
		r := h.run(h.command(append(append([]string{h.binary, "exec", "--user", "alice"}, flags...), append([]string{"--"}, argv...)...)...))
		return strings.TrimSpace(r.stdout + r.stderr)
	}
	pid := strconv.Itoa(outside.Process.Pid)
	if got := h.run(h.command(as(alice, inmatePath, "readmem", pid)...)).stdout; got != "ok\n" {
		t.Fatalf("without exec the same user may read that process: %q", got)
	}
	if got := inside(nil, inmatePath, "ptrace", pid); got != "EPERM" {
		t.Errorf("ptrace: %s", got)
	}
	if got := inside(nil, inmatePath, "readmem", pid); got != "EACCES" && got != "EPERM" {
		t.Errorf("environ of a process outside: %s", got)
	}
	var families map[string]string
	if err := json.Unmarshal([]byte(inside(nil, inmatePath, "sockets")), &families); err != nil {
		t.Fatal(err)
	}
	for name, got := range families {
		switch name {
		case "unix", "inet", "inet6", "netlink":
			if got != "ok" {
				t.Errorf("socket of family %s: %s", name, got)
			}
		default:
			if got == "ok" {
				t.Errorf("socket of family %s was made", name)
			}
		}
	}
	if got := inside(nil, "sh", "-c", "mkdir "+cgroupRoot()+"/escape 2>&1 || echo refused"); !strings.Contains(got, "Read-only file system") {
		t.Errorf("mkdir in the cgroup file system: %s", got)
	}
	if got := inside(nil, "sh", "-c", "echo $$ > "+cgroupRoot()+"/cgroup.procs"); !strings.Contains(got, "Read-only") && !strings.Contains(got, "ermission denied") {
		t.Errorf("leave the cgroup: %s", got)
	}
	for _, cmd := range []string{"sudo -n true", "mount -t tmpfs x /mnt", "unshare -m true", "nsenter -t 1 -m true"} {
		if got := inside(nil, "sh", "-c", cmd+" && echo DONE"); strings.Contains(got, "DONE") {
			t.Errorf("%s succeeded: %s", cmd, got)
		}
	}
	connect := `for s in /run/nscd/socket /run/dbus/system_bus_socket /run/docker.sock /run/systemd/resolve/io.systemd.Resolve /run/sallyport/*/*; do python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1]); print("connected", sys.argv[1])' $s 2>/dev/null; done; ls -A /run/sallyport /sys/fs/bpf/sallyport /var/lib/sallyport`
	if got := inside(nil, "sh", "-c", connect); strings.Contains(got, "connected") || strings.Contains(got, "ca") && strings.Contains(got, "root.key") {
		t.Errorf("hidden sockets: %s", got)
	}
	if got := inside([]string{"--keep-sockets"}, "sh", "-c", connect); !strings.Contains(got, "connected /run/docker.sock") || !strings.Contains(got, "connected /run/nscd/socket") || strings.Contains(got, "connected /run/sallyport") {
		t.Errorf("with --keep-sockets: %s", got)
	}
	h.waitAudit("--keep-sockets", func(e *audit.Event) bool {
		return e.Kind == audit.Lifecycle && strings.Contains(e.Message, "keeps the sockets")
	})
	if got := inside(nil, "sh", "-c", `ls /etc/ssl/certs | grep -c sallyport; grep -c BEGIN "$SSL_CERT_FILE" "$NODE_EXTRA_CA_CERTS" /etc/ssl/certs/ca-certificates.crt; echo x > /etc/ssl/certs/x`); !strings.HasPrefix(got, "1\n") && !strings.HasPrefix(got, "2\n") || !strings.Contains(got, "Read-only") {
		t.Errorf("trust directory: %s", got)
	}
	if r := h.sh("ls /etc/ssl/certs | grep sallyport; ls " + cgroupRoot() + "/escape; mkdir " + cgroupRoot() + "/" + h.name + "-rw && rmdir " + cgroupRoot() + "/" + h.name + "-rw && echo writable"); r.stdout != "writable\n" {
		t.Errorf("the host itself was changed: %v", r)
	}
}

// listenUnix serves a socket on the host that everybody may connect to.
func (h *host) listenUnix(path string) {
	h.t.Helper()
	h.sh("mkdir -p " + filepath.Dir(path))
	// The path through /proc is too long for a socket address.
	dir, err := os.Open(h.path(filepath.Dir(path)))
	if err != nil {
		h.t.Fatal(err)
	}
	defer dir.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	if err != nil {
		h.t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	h.t.Cleanup(func() { l.Close() })
	os.Chmod(h.path(path), 0o777)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
}

// TestExecInheritedSocket: an internet socket among the descriptors is refused
// before anything is made.
func TestExecInheritedSocket(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var sock *os.File
	inNetns(t, h.net.ns, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Error(err)
		}
		sock = os.NewFile(uintptr(fd), "socket")
	})
	defer sock.Close()
	c := h.command(h.exec("", "true")...)
	c.ExtraFiles = []*os.File{sock}
	if r := h.run(c); r.code != 1 || !strings.HasPrefix(r.stderr, "sallyport: exec: ") || !strings.Contains(r.stderr, "3 is an internet socket") {
		t.Errorf("%v", r)
	}
}

// TestExecSudo: under sudo the command is the calling user's, with that user's
// PATH, HOME and USER; a killed sudo leaves nothing.
func TestExecSudo(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownAccounts()
	h.putInmate()
	sudo := func(argv ...string) []string {
		return as(alice, append([]string{"PATH=/srv/home/alice/bin:/usr/bin:/bin", "sudo", "-n"}, argv...)...)
	}
	r := h.run(h.command(sudo(h.binary, "exec", "--", "sh", "-c", `id -u; id -g; echo $PATH; echo $HOME $USER $LOGNAME; pwd; env | grep -c ^SUDO_; curl -sS https://api.example.com/x`)...))
	want := fmt.Sprintf("%d\n%d\n/srv/home/alice/bin:/usr/bin:/bin\n/srv/home/alice alice alice\n/srv/home/alice\n0\n", alice, alice)
	if !strings.HasPrefix(r.stdout, want) || !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("%v\nwant: %s", r, want)
	}
	// Seen from outside: the command itself does not see its audit.
	if ls, want := h.sh("ls -ln /srv/home/alice/sallyport-audit.*.jsonl | cut -d' ' -f1,3,4"), fmt.Sprintf("-rw------- %d %d\n", alice, alice); ls.stdout != want {
		t.Errorf("audit file: %v, want %s", ls, want)
	}
	eventually(t, 5*time.Second, "all gone", func() bool { return len(h.processes()) == 0 })

	for _, pty := range []string{"use_pty", "!use_pty"} {
		t.Run(pty, func(t *testing.T) {
			h := newHost(t)
			h.ownAccounts()
			h.putInmate()
			h.warmUp()
			h.sh("sed -i /use_pty/d /etc/sudoers; echo 'Defaults " + pty + "' >> /etc/sudoers")
			before := h.snapshot()
			i := h.startInmate(sudo(h.binary, "exec", "--", inmatePath)...)
			if got := procStatus(i.pid)["Uid"]; !strings.HasPrefix(got, strconv.Itoa(alice)+" ") {
				t.Errorf("uid %s", got)
			}
			objects := h.pinnedObjects()
			// The outermost sudo is what a client would kill.
			for _, p := range h.processes() {
				if p.argv[0] == "sudo" && !slices.ContainsFunc(h.processes(), func(q hostProcess) bool { return q.pid == p.ppid && q.argv[0] == "sudo" }) {
					h.kill(p.pid, unix.SIGKILL)
				}
			}
			h.goneWithin(goneAfter, before, objects, i.pid)
		})
	}
}

// TestExecRoot: root's command stays root unless --user says otherwise, and
// that is recorded and shown.
func TestExecRoot(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownAccounts()
	r := h.run(h.command(h.exec("", "id", "-u")...))
	if r.stdout != "0\n" {
		t.Errorf("%v", r)
	}
	h.waitAudit("root is recorded", func(e *audit.Event) bool {
		return e.Kind == audit.Lifecycle && strings.Contains(e.Message, "root: not confined")
	})
	for _, user := range []string{"bob", strconv.Itoa(bob)} {
		r := h.run(h.command(h.binary, "exec", "--user", user, "--", "sh", "-c", "id -u; id -G; echo $HOME $USER"))
		if r.stdout != fmt.Sprintf("%d\n%d %d\n/srv/home/bob bob\n", bob, bob, groupSallyport) {
			t.Errorf("--user %s: %v", user, r)
		}
	}
	if r := h.run(h.command(h.binary, "exec", "--user", "nobody-such", "--", "true")); r.code != 1 || !strings.Contains(r.stderr, "nobody-such") {
		t.Errorf("%v", r)
	}
	if r := h.run(h.command(as(alice, h.binary, "exec", "--", "true")...)); r.code != 1 || !strings.Contains(r.stderr, "needs root: run it with sudo") {
		t.Errorf("without root: %v", r)
	}
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
	eventually(t, 5*time.Second, "nothing left", func() bool { return len(h.snapshot().minus(before)) == 0 })
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
