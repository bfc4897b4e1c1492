package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/config"
)

// An Instance is one gate and everything that it adds to the host: the
// service's, or that of one `exec` without a daemon. All names derive from it,
// so that teardown after a crash needs no list of what was made.
type Instance struct {
	// Name is "service" or "exec-PID".
	Name string
	// Table is the nftables table.
	Table string
	// Pins is the directory of BPF links and maps on bpffs.
	Pins string
	// Tagged is the path, below the cgroup2 mount, of the cgroup whose members
	// are captured.
	Tagged string
	// Home is the path, below the cgroup2 mount, of the cgroup in which the
	// listeners are made.
	Home string
	// Scope is the transient unit in which both are; "" where no service manager
	// makes one.
	Scope string
	// Runtime is the directory of sockets, lock and trust files.
	Runtime string
	// Locks say by what it is enforced.
	Locks Locks
}

// Places says where instances live; all of it is configurable.
type Places struct {
	RuntimeDir, BPFDir, Table, Slice string
	// Scopes says that the cgroups of an `exec` are made by systemd.
	Scopes bool
	// Locks are those of each instance; LocksAny where nobody has chosen.
	Locks Locks
}

const servicePrefix, execPrefix = "service", "exec-"

// Service gives the instance of the daemon.
func (p Places) Service() Instance {
	return Instance{
		Name:    servicePrefix,
		Table:   p.Table,
		Pins:    filepath.Join(p.BPFDir, servicePrefix),
		Tagged:  "/" + strings.TrimPrefix(p.Slice, "/"),
		Home:    "/" + p.Table + ".keeper",
		Runtime: filepath.Join(p.RuntimeDir, servicePrefix),
		Locks:   p.Locks,
	}
}

// Exec gives the instance of an `exec` without a daemon, whose wrapper has
// this pid. Its cgroup lies beside the slice and never below it: there a service's
// gate would hold it as well.
func (p Places) Exec(pid int) Instance {
	name := execPrefix + strconv.Itoa(pid)
	i := Instance{
		Name:    name,
		Table:   p.Table + "_" + strconv.Itoa(pid),
		Pins:    filepath.Join(p.BPFDir, name),
		Tagged:  "/" + p.Table + "-" + name,
		Home:    "/" + p.Table + "-" + name + ".keeper",
		Runtime: filepath.Join(p.RuntimeDir, name),
		Locks:   p.Locks,
	}
	if p.Scopes {
		i.Scope = p.Table + "-" + name + ".scope"
		i.Tagged, i.Home = "/"+i.Scope+"/gate", "/"+i.Scope+"/keeper"
	}
	return i
}

// Command is the cgroup of an exec's command, below the tagged one.
func (i Instance) Command() string { return filepath.Join(i.Tagged, "command") }

// ProbeCgroup is the cgroup of the self-probe. Nothing else can enter it: it is
// root's, and it holds no process between two probes.
func (i Instance) ProbeCgroup() string { return filepath.Join(i.Tagged, "sallyport-probe") }

// Trust holds the trust directories of workloads.
func (i Instance) Trust() string { return filepath.Join(i.Runtime, "trust") }

// Slice is the slice of the service manager in which the keeper's units are.
func (i Instance) Slice() string { return i.Table + ".slice" }

func (i Instance) lockPath() string { return filepath.Join(i.Runtime, "lock") }

// ErrRunning says that the instance has a living keeper.
var ErrRunning = errors.New("already running")

// Lock takes the instance for the life of the returned file. It returns
// ErrRunning if another process has it.
func (i Instance) Lock() (*os.File, error) {
	f, err := lockFile(i.lockPath(), false)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s: %w", i.person(), ErrRunning)
	}
	return f, err
}

// inheritTime bounds how long a child of a keeper that was killed may go on having
// what that had: until it executes, or the kernel has closed it all.
const inheritTime = 2 * time.Second

// LockSoon is Lock for whoever comes when the last owner has ended, but perhaps not
// yet what had the lock from it. It gives ErrRunning after 2 s.
func (i Instance) LockSoon() (*os.File, error) { return i.lockSoon(inheritTime) }

// lockSoon tries once at least.
func (i Instance) lockSoon(within time.Duration) (*os.File, error) {
	for end := time.Now().Add(within); ; time.Sleep(2 * time.Millisecond) {
		lock, err := i.Lock()
		if !errors.Is(err, ErrRunning) || time.Now().After(end) {
			return lock, err
		}
	}
}

// person names the instance for one.
func (i Instance) person() string {
	if pid, ok := strings.CutPrefix(i.Name, execPrefix); ok {
		return "an exec, pid " + pid
	}
	return "the daemon"
}

// Execs lists the instances of `exec` that left a runtime directory, living or
// not.
func (p Places) Execs() ([]Instance, error) {
	entries, err := os.ReadDir(p.RuntimeDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []Instance
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), execPrefix)
		pid, err := strconv.Atoi(digits)
		if ok && err == nil && e.IsDir() {
			found = append(found, p.Exec(pid))
		}
	}
	return found, nil
}

// PlacesOf gives the places that a configuration names.
func PlacesOf(c *config.Config) Places {
	return Places{RuntimeDir: c.RuntimeDir, BPFDir: c.BPFDir, Table: c.NFTTable, Slice: slicePath(c.Slice, booted()), Scopes: scoped()}
}

// slicePath is where a slice lies below the cgroup2 mount. With systemd a name
// with dashes is below those that it begins with (systemd.slice(5)): a cgroup of
// that name at the top would be one in which nobody ever runs, and what systemd
// starts in the slice would not be captured.
func slicePath(slice string, systemd bool) string {
	name := strings.TrimSuffix(slice, ".slice")
	if !systemd {
		return "/" + slice
	}
	var path strings.Builder
	for at, c := range name {
		if c == '-' {
			path.WriteString("/" + name[:at] + ".slice")
		}
	}
	return path.String() + "/" + slice
}

// booted is sd_booted(3).
func booted() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}
