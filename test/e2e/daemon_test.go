package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// daemonConfig is where startDaemon puts its configuration.
const daemonConfig = "/srv/daemon/policy.yaml"

// execBy gives the words of an exec by the daemon.
func (h *host) execBy(argv ...string) []string {
	return append([]string{h.binary, "exec", "--config", daemonConfig, "--"}, argv...)
}

// withDaemon is a host with users and a running daemon in observe mode.
func withDaemon(t *testing.T) (*host, *daemon) {
	t.Helper()
	h := newHost(t)
	h.ownAccounts()
	h.putInmate()
	return h, h.startDaemon(h.config("mode: observe\n"))
}

// TestDaemonExec: a member of the group needs no sudo, and the command is the
// caller's in all that a process can pass on.
func TestDaemonExec(t *testing.T) {
	t.Parallel()
	h, _ := withDaemon(t)
	look := `id -u; id -g; id -G; pwd; umask; ulimit -a; env | grep -E '^(KEPT|HOME|USER|PATH)=' | sort; cat <&7; echo to-eight >&8; grep -E '^(Cap|NoNew)' /proc/self/status; read c < /proc/$$/task/$$/children; echo "children $c"; readlink /proc/self/fd/* | grep -c sallyport`
	prepare := `umask 027; ulimit -S -n 321; ulimit -c 7; ulimit -s 4096; cd /srv/home/alice; export KEPT='a b'; exec 7<<<"from seven"; exec 8>eight; `
	r := h.run(h.command(as(alice, append([]string{"bash", "-c", prepare + `exec "$@"`, "-"}, h.execBy("bash", "-c", look)...)...)...))
	bare := h.run(h.command(as(alice, "bash", "-c", prepare+`exec "$@"`, "-", "bash", "-c", look)...))
	// The command itself has no capability and gains none; nothing else differs.
	same := func(s string) []string {
		return slices.DeleteFunc(strings.Split(s, "\n"), func(l string) bool { return strings.HasPrefix(l, "CapBnd") || strings.HasPrefix(l, "NoNewPrivs") })
	}
	if got, want := same(r.stdout), same(bare.stdout); !slices.Equal(got, want) || len(got) < 25 {
		t.Errorf("with the daemon:\n%s%s\nwithout:\n%s", r.stdout, r.stderr, bare.stdout)
	}
	if !strings.Contains(r.stdout, "CapBnd:\t0000000000000000") || !strings.Contains(r.stdout, "NoNewPrivs:\t1") {
		t.Errorf("not confined: %s", r.stdout)
	}
	if got := h.read("/srv/home/alice/eight"); got != "to-eight\n" {
		t.Errorf("descriptor 8: %q", got)
	}
	r = h.run(h.command(as(alice, h.execBy("curl", "-sS", "https://api.example.com/by-daemon")...)...))
	if r.code != 0 || !strings.Contains(r.stdout, `"ok":true`) {
		t.Errorf("%v", r)
	}
	e := h.waitAudit("the exchange", func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.HTTP.Path == "/by-daemon" })
	if e.Workload.Name != "curl" || e.Workload.UID != alice {
		t.Errorf("workload %+v", e.Workload)
	}
}

// TestDaemonExecStack: the command's limit of the stack is its caller's each time,
// however soon the keeper sets it.
func TestDaemonExecStack(t *testing.T) {
	t.Parallel()
	h, _ := withDaemon(t)
	const times = 60
	r := h.run(h.command(as(alice, append([]string{"bash", "-c", fmt.Sprintf(`ulimit -s 4096; for i in {1..%d}; do "$@"; done`, times), "-"}, h.execBy("bash", "-c", "ulimit -S -s; ulimit -H -s")...)...)...))
	if want := strings.Repeat("4096\n4096\n", times); r.stdout != want {
		t.Errorf("%d times of %d, and otherwise %v", strings.Count(r.stdout, "4096\n4096\n"), times, strings.ReplaceAll(r.String(), "4096\n", ""))
	}
}

// TestDaemonExecStatus: status, signals and pipes are as without a daemon.
func TestDaemonExecStatus(t *testing.T) {
	t.Parallel()
	h, _ := withDaemon(t)
	for _, c := range []struct {
		argv []string
		want int
	}{
		{[]string{"true"}, 0}, {[]string{"sh", "-c", "exit 3"}, 3}, {[]string{"sh", "-c", "exit 255"}, 255},
		{[]string{"/srv"}, 126}, {[]string{"no-such-command"}, 127},
	} {
		if r := h.run(h.command(as(alice, h.execBy(c.argv...)...)...)); r.code != c.want {
			t.Errorf("%v: %v, want %d", c.argv, r, c.want)
		}
	}
	c := h.command(as(alice, h.execBy("sh", "-c", "kill -TERM $$")...)...)
	c.Run()
	if ws := c.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != unix.SIGTERM {
		t.Errorf("death by SIGTERM: %v", c.ProcessState)
	}
	data := bytes.Repeat([]byte{0, 255, 10, 13, 128}, 100000)
	c = h.command(as(alice, h.execBy("cat")...)...)
	var out bytes.Buffer
	c.Stdin, c.Stdout = bytes.NewReader(data), &out
	if r := h.run(c); r.code != 0 || !bytes.Equal(out.Bytes(), data) {
		t.Errorf("%d of %d bytes through cat: %v", out.Len(), len(data), r.code)
	}
	// Signals are forwarded to the command.
	c = h.command(as(alice, h.execBy(inmatePath, "signals")...)...)
	pipe, _ := c.StdoutPipe()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := linesOf(pipe)
	for _, want := range []string{"ready", "15", "2", "1", "10", "28", "12"} {
		if n, err := strconv.Atoi(want); err == nil {
			h.kill(c.Process.Pid, syscall.Signal(n))
		}
		select {
		case got := <-lines:
			if got != want {
				t.Errorf("signal: %q, want %q", got, want)
			}
		case <-time.After(30 * time.Second):
			c.Process.Kill()
			t.Fatalf("signal %s did not arrive", want)
		}
	}
	if err := c.Wait(); err != nil {
		t.Errorf("after its last signal: %v", err)
	}
	// A reader sees the end as soon as the command closes its output.
	c = h.command(as(alice, h.execBy("sh", "-c", "echo x; exec >&-; sleep 100")...)...)
	pipe, _ = c.StdoutPipe()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan string, 1)
	go func() { b, _ := io.ReadAll(pipe); done <- string(b) }()
	// The wrapper stands where the command is expected and keeps its own copy:
	// it must not keep the pipe.
	select {
	case got := <-done:
		if got != "x\n" {
			t.Errorf("%q", got)
		}
	case <-time.After(30 * time.Second):
		t.Error("the pipe has no end although the command closed it")
	}
	c.Process.Kill()
	c.Wait()
}

// linesOf reads lines, for those who wait for one only so long.
func linesOf(r io.Reader) <-chan string {
	lines := make(chan string, 64)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(r); s.Scan(); {
			lines <- s.Text()
		}
	}()
	return lines
}

// TestDaemonExecEnds: the command ends with its wrapper, and with the daemon.
func TestDaemonExecEnds(t *testing.T) {
	t.Parallel()
	h, d := withDaemon(t)
	i := h.startInmate(as(alice, h.execBy(inmatePath)...)...)
	cgroup := h.tagged(i.pid)
	h.kill(i.cmd.Process.Pid, unix.SIGKILL)
	eventually(t, goneAfter, "the command of a killed wrapper is gone, and its cgroup", func() bool {
		_, err := os.Stat(cgroup)
		return !living(i.pid) && os.IsNotExist(err)
	})
	i = h.startInmate(as(bob, h.execBy(inmatePath)...)...)
	h.run(h.command(as(alice, h.execBy("true")...)...))
	d.stop()
	eventually(t, goneAfter, "the command of a stopped daemon is gone", func() bool { return !living(i.pid) })
	select {
	case <-i.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the wrapper waits for a command that has ended")
	}
	if i.cmd.ProcessState.Success() {
		t.Error("a wrapper whose command was killed succeeded")
	}
}

// TestDaemonExecUsers: two users at once, each with its own identity and
// workload.
func TestDaemonExecUsers(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.ownAccounts()
	h.putInmate()
	h.startDaemon(h.config(`
mode: enforce
workloads:
  of-alice: { match: { user: alice } }
  of-bob: { match: { user: bob } }
rules:
  - { name: alice-only, match: { workloads: [of-alice], hosts: [v4.example.com] }, action: allow }
  - { name: bob-only, match: { workloads: [of-bob], hosts: [other.example.com] }, action: allow }
`))
	status := func(uid int, url string) string {
		r := h.run(h.command(as(uid, h.execBy("sh", "-c", "id -u; curl -sS -o /dev/null -w '%{http_code}' "+url)...)...))
		return strings.Join(strings.Fields(r.stdout), " ") + strings.TrimSpace(r.stderr)
	}
	for _, c := range []struct {
		uid  int
		host string
		ok   bool
	}{{alice, "v4.example.com", true}, {alice, "other.example.com", false}, {bob, "other.example.com", true}, {bob, "v4.example.com", false}} {
		got := status(c.uid, "https://"+c.host+"/x")
		if ok := got == strconv.Itoa(c.uid)+" 200"; ok != c.ok {
			t.Errorf("uid %d to %s: %s", c.uid, c.host, got)
		}
	}
	if n := h.net.connections.Load(); n != 2 {
		t.Errorf("%d connections reached the origins, want 2", n)
	}
	a := h.startInmate(as(alice, h.execBy(inmatePath)...)...)
	b := h.startInmate(as(bob, h.execBy(inmatePath)...)...)
	if ua, ub := procStatus(a.pid)["Uid"], procStatus(b.pid)["Uid"]; ua == ub {
		t.Errorf("both commands run as %s", ua)
	}
	r := h.run(h.command(as(alice, h.binary, "status", "--json", "--config", daemonConfig)...))
	if r.code != 0 || !strings.Contains(r.stdout, "of-alice") || !strings.Contains(r.stdout, "of-bob") {
		t.Errorf("status: %v", r)
	}
}

// TestDaemonExecRefused: who is confined already gets nothing started outside
// its confinement, and who is not in the group gets nothing at all.
func TestDaemonExecRefused(t *testing.T) {
	t.Parallel()
	h, _ := withDaemon(t)
	ok := h.run(h.command(as(alice, h.execBy("echo", "started")...)...))
	if ok.stdout != "started\n" {
		t.Fatalf("alice: %v", ok)
	}
	i := h.startInmate(as(alice, h.execBy("bash", "-c", "echo '{\"pid\":'$$'}'; read line; "+strings.Join(h.execBy("echo", "started"), " ")+" 2>&1; echo END; read line")...)...)
	apart := h.apart("elsewhere")
	h.sleeper(apart)
	if r := h.tagging("tag", "cgroup", apart); r.code != 0 {
		t.Fatalf("tag cgroup: %v", r)
	}
	worker, _, _ := strings.Cut(procStatus(h.workerPID())["Uid"], " ")
	likeWorker := []string{"setpriv", "--reuid", worker, "--regid", strconv.Itoa(groupSallyport), "--clear-groups"}
	enter := func(cgroup string) []string {
		return append([]string{"bash", "-c", `echo $$ > ` + cgroup + `/cgroup.procs; exec "$@"`, "-"}, as(alice, h.execBy("echo", "started")...)...)
	}
	for _, c := range []struct {
		name string
		argv []string
		want string
	}{
		{"the worker's user", append(likeWorker, h.execBy("echo", "started")...), "sallyport's worker"},
		{"a cgroup tagged elsewhere", enter(cgroupRoot() + apart), "tagged cgroup"},
		{"not in the group", as(mallory, h.execBy("echo", "started")...), "join group sallyport"},
		{"no_new_privs", as(alice, append([]string{"setpriv", "--no-new-privs"}, h.execBy("echo", "started")...)...), "no_new_privs"},
		{"seccomp", append([]string{"python3", "-c", seccompThenExec}, as(alice, h.execBy("echo", "started")...)...), "seccomp"},
		{"another mount namespace", append([]string{"unshare", "-m"}, as(alice, h.execBy("echo", "started")...)...), "mnt namespace"},
		{"another user namespace", as(alice, append([]string{"unshare", "-U", "-r"}, h.execBy("echo", "started")...)...), "user namespace"},
		{"another pid namespace", append([]string{"unshare", "-p", "-f"}, as(alice, h.execBy("echo", "started")...)...), "pid namespace"},
		{"a tagged cgroup", enter(h.tagged(i.pid)), "tagged cgroup"},
	} {
		r := h.run(h.command(c.argv...))
		if r.code != 1 || r.stdout != "" || !strings.HasPrefix(r.stderr, "sallyport: exec: ") || !strings.Contains(r.stderr, c.want) {
			t.Errorf("%s: %v, want %q", c.name, r, c.want)
		}
	}
	// From inside, the socket is not even there.
	i.order("go")
	said := ""
	for lines := linesOf(i.stdout); ; {
		select {
		case line := <-lines:
			if line != "END" {
				said += line
				continue
			}
		case <-time.After(30 * time.Second):
			t.Error("from inside: no answer")
		}
		break
	}
	if strings.Contains(said, "started") || !strings.HasPrefix(said, "sallyport: ") {
		t.Errorf("from inside: %q", said)
	}
}

// seccompThenExec installs a filter that allows everything, and becomes the
// rest of its arguments.
const seccompThenExec = `
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
prog = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
class fprog(ctypes.Structure): _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
if libc.prctl(22, 2, ctypes.byref(fprog(1, ctypes.addressof(prog))), 0, 0): sys.exit(os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
`

// TestNoDaemon: an installed service that does not answer is an error, unless
// asked otherwise.
func TestNoDaemon(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.sh("mkdir -p /run/systemd/system; touch /run/systemd/system/sallyport.service")
	r := h.run(h.command(h.exec("", "echo", "started")...))
	if r.code != 1 || r.stdout != "" || !strings.Contains(r.stderr, "service is installed but does not answer") || !strings.Contains(r.stderr, "--standalone") {
		t.Errorf("%v", r)
	}
	if r := h.run(h.command(h.binary, "exec", "--standalone", "--", "echo", "started")); r.code != 0 || r.stdout != "started\n" {
		t.Errorf("--standalone: %v", r)
	}
}
