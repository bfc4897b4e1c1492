package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/pkg/admin/socket"
	"sallyport/pkg/workload"
)

// A caller is the process that asks the daemon to start a command, as the
// kernel describes it. Nothing of it is taken from what the process says.
type caller struct {
	pid, uid, gid int
	groups        []int
	umask         int
	pidfd         *os.File
	// limits are the process's resource limits by number.
	limits []unix.Rlimit
}

// errWorkersUser refuses the worker, whose group is the one that may start commands:
// it reads what strangers wrote, and in hostile hands it would have processes of
// its user outside of its sandbox.
var errWorkersUser = errors.New("the caller is the user of sallyport's worker, which starts nothing")

// callerOf identifies the process at the other end, and refuses it where a
// command started for it could do more than the process itself. tagged reports
// whether a cgroup is tagged or below one that is.
func callerOf(c *net.UnixConn, tree *workload.Tree, tagged func(path string) bool) (*caller, error) {
	p := &caller{}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = p.fromSocket(int(fd)) }); err != nil {
		return nil, err
	}
	if serr != nil {
		return nil, serr
	}
	if err := p.check(tree, tagged); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *caller) close() { p.pidfd.Close() }

// fromSocket reads the credentials that the kernel noted when the peer called
// connect(2), and takes hold of that process.
func (p *caller) fromSocket(fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("peer credentials: %w", err)
	}
	if cred.Pid <= 0 {
		return errors.New("the caller is in another pid namespace: start sallyport on the host")
	}
	p.pid, p.uid, p.gid = int(cred.Pid), int(cred.Uid), int(cred.Gid)
	groups, err := socket.PeerGroups(fd)
	if err != nil {
		return fmt.Errorf("peer groups: %w", err)
	}
	for _, g := range groups {
		p.groups = append(p.groups, int(g))
	}
	// SO_PEERPIDFD is Linux 6.5. Before, the pid is opened here and proven by
	// the next message, which the kernel stamps with its sender (see proven).
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		pidfd, err = unix.PidfdOpen(p.pid, 0)
	}
	if err != nil {
		return fmt.Errorf("the caller cannot be proven by a pidfd: %w", err)
	}
	p.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		p.pidfd.Close()
		return fmt.Errorf("SO_PASSCRED: %w", err)
	}
	return nil
}

// proven reports whether the process that sent a message, after the pidfd was
// opened, is the one that the pidfd means.
func (p *caller) proven(sender *unix.Ucred) bool {
	return sender != nil && int(sender.Pid) == p.pid && int(sender.Uid) == p.uid && p.alive()
}

func (p *caller) alive() bool {
	return unix.PidfdSendSignal(int(p.pidfd.Fd()), 0, nil, 0) == nil
}

// check refuses a caller that is confined itself: a command of the daemon's is
// not bound by the caller's own limits, so starting one would lift them.
func (p *caller) check(tree *workload.Tree, tagged func(path string) bool) error {
	proc := "/proc/" + strconv.Itoa(p.pid)
	data, err := os.ReadFile(proc + "/status")
	if err != nil {
		return fmt.Errorf("read the caller's status: %w", err)
	}
	status := statusFields(string(data))
	if status["NoNewPrivs"] != "0" {
		return errors.New("the caller has no_new_privs: a sandbox must not get a command started outside it")
	}
	if status["Seccomp"] != "0" {
		return errors.New("the caller has a seccomp filter: a sandbox must not get a command started outside it")
	}
	umask, err := strconv.ParseInt(status["Umask"], 8, 32)
	if err != nil {
		return fmt.Errorf("the caller's umask %q: %w", status["Umask"], err)
	}
	p.umask = int(umask)
	for _, ns := range []string{"user", "mnt", "pid", "net"} {
		same, err := sameFile(proc+"/ns/"+ns, "/proc/self/ns/"+ns)
		if err != nil {
			return fmt.Errorf("the caller's %s namespace: %w", ns, err)
		}
		if !same {
			return fmt.Errorf("the caller is in another %s namespace than the daemon: start sallyport on the host", ns)
		}
	}
	same, err := sameFile(proc+"/root", "/proc/self/root")
	if err != nil {
		return fmt.Errorf("the caller's root directory: %w", err)
	}
	if !same {
		return errors.New("the caller's root directory is another one than the daemon's: a command would leave it")
	}
	cg, err := tree.OfProcess(p.pid)
	if err != nil {
		return fmt.Errorf("the caller's cgroup: %w", err)
	}
	if tagged(cg.Path()) {
		return errors.New("the caller runs in a tagged cgroup: a workload must not start others")
	}
	data, err = os.ReadFile(proc + "/limits")
	if err != nil {
		return fmt.Errorf("the caller's limits: %w", err)
	}
	if p.limits, err = parseLimits(string(data)); err != nil {
		return fmt.Errorf("the caller's limits: %w", err)
	}
	// Everything above was read by pid; it was the caller's if that still lives.
	if !p.alive() {
		return errors.New("the caller has ended")
	}
	return nil
}

// statusFields splits /proc/PID/status into its fields.
func statusFields(s string) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(s) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}

func sameFile(a, b string) (bool, error) {
	sa, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	sb, err := os.Stat(b)
	if err != nil {
		return false, err
	}
	return os.SameFile(sa, sb), nil
}

// member reports whether the caller is root or in the group; -1 is nobody's.
func (p *caller) member(group int) bool {
	return p.uid == 0 || group >= 0 && (p.gid == group || slices.Contains(p.groups, group))
}
