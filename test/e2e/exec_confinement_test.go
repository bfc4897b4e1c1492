package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

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
	eventually(t, 20*time.Second, "a process of the same user", func() bool { return h.runs("sleep 1000") })
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
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
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
	eventually(t, goneAfter, "all gone", func() bool { return len(h.processes()) == 0 })

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
