package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A serviceManager does for the units of sallyport what systemd does: it starts
// them in cgroups that are new each time, takes their notifications, keeps their
// descriptors, and starts a main process again when it has ended, while what that
// left behind lives on.
type serviceManager struct {
	h *host
	t *testing.T
	// tree is where the test reaches the cgroups, slice the units' own one.
	tree, slice string
	units       []*unit
}

// A unit is one service.
type unit struct {
	m    *serviceManager
	name string
	argv []string
	// again says that the main process is started whenever it has ended.
	again bool
	// whole says that all processes end with the main one (KillMode=control-group).
	whole bool

	notify *net.UnixConn
	socket string
	stderr *syncBuffer

	mu     sync.Mutex
	cmd    *exec.Cmd
	ended  chan struct{}
	stop   bool
	starts int
	store  map[string]*os.File
	state  map[string]string
	ready  chan struct{} // closed at READY=1 of the present main process
	beats  int
	cgroup string
}

// cgroupTree is where cgroup2 is mounted.
func cgroupTree(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(p, "cgroup.controllers")); err == nil {
			return p
		}
	}
	t.Fatal("no cgroup2")
	return ""
}

// newServiceManager makes the slice of the units.
func (h *host) newServiceManager(slice string) *serviceManager {
	h.t.Helper()
	m := &serviceManager{h: h, t: h.t, tree: cgroupTree(h.t), slice: slice}
	if err := os.Mkdir(filepath.Join(m.tree, slice), 0o755); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(m.end)
	return m
}

// unit makes a unit that Start starts.
func (m *serviceManager) unit(name string, argv ...string) *unit {
	m.t.Helper()
	u := &unit{
		m: m, name: name, argv: argv, socket: "/run/" + name + ".notify", stderr: &syncBuffer{},
		store: make(map[string]*os.File), state: make(map[string]string),
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.h.path(u.socket), Net: "unixgram"})
	if err != nil {
		m.t.Fatal(err)
	}
	if err := os.Chmod(m.h.path(u.socket), 0o666); err != nil {
		m.t.Fatal(err)
	}
	u.notify = c
	go u.listen()
	m.units = append(m.units, u)
	return u
}

// listen takes what processes of the unit say.
func (u *unit) listen() {
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*64))
	for {
		n, m, _, _, err := u.notify.ReadMsgUnix(b, oob)
		if err != nil {
			return
		}
		var files []*os.File
		if msgs, err := unix.ParseSocketControlMessage(oob[:m]); err == nil {
			for i := range msgs {
				fds, _ := unix.ParseUnixRights(&msgs[i])
				for _, fd := range fds {
					unix.CloseOnExec(fd)
					files = append(files, os.NewFile(uintptr(fd), "stored"))
				}
			}
		}
		u.take(string(b[:n]), files)
	}
}

func (u *unit) take(message string, files []*os.File) {
	u.mu.Lock()
	defer u.mu.Unlock()
	values := make(map[string]string)
	for line := range strings.Lines(message) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[k] = v
		if k != "" {
			u.state[k] = v
		}
	}
	if values["WATCHDOG"] == "1" {
		u.beats++
	}
	if values["READY"] == "1" && u.ready != nil {
		select {
		case <-u.ready:
		default:
			close(u.ready)
		}
	}
	name := values["FDNAME"]
	switch {
	case values["FDSTORE"] == "1" && len(files) == 1:
		if old := u.store[name]; old != nil {
			old.Close()
		}
		u.store[name] = files[0]
	case values["FDSTOREREMOVE"] == "1":
		if old := u.store[name]; old != nil {
			old.Close()
			delete(u.store, name)
		}
	}
}

// start starts the main process in a cgroup of its own, with what was stored.
func (u *unit) start() {
	u.m.t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.launch(); err != nil {
		u.m.t.Errorf("start %s: %v", u.name, err)
	}
}

func (u *unit) launch() error {
	u.starts++
	u.cgroup = filepath.Join(u.m.tree, u.m.slice, fmt.Sprintf("%s-%d.service", u.name, u.starts))
	if err := os.Mkdir(u.cgroup, 0o755); err != nil {
		return err
	}
	var names []string
	for name := range u.store {
		names = append(names, name)
	}
	slices.Sort(names)
	cmd := u.m.h.command(append([]string{"sh", "-c", `echo $$ > "$0"/cgroup.procs && exec "$@"`, u.cgroup, "sh", "-c", `LISTEN_PID=$$ exec "$@"`, "-"}, u.argv...)...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+u.socket, "INVOCATION_ID=0123456789abcdef0123456789abcdef", "WATCHDOG_USEC=3000000")
	for _, name := range names {
		cmd.ExtraFiles = append(cmd.ExtraFiles, u.store[name])
	}
	if len(names) > 0 {
		cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	cmd.Stderr = u.stderr
	// The worker's processes have its standard error, and outlive the main one.
	cmd.WaitDelay = 50 * time.Millisecond
	if err := cmd.Start(); err != nil {
		return err
	}
	u.cmd, u.ended, u.ready = cmd, make(chan struct{}), make(chan struct{})
	go u.wait(cmd, u.ended, u.cgroup)
	return nil
}

// wait reaps the main process and starts the next one.
func (u *unit) wait(cmd *exec.Cmd, ended chan struct{}, cgroup string) {
	cmd.Wait()
	if u.whole {
		os.WriteFile(filepath.Join(cgroup, "cgroup.kill"), []byte("1"), 0)
	}
	// As systemd does; what drains there keeps it.
	for range 50 {
		if os.Remove(cgroup) == nil || !u.whole {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	close(ended)
	if !u.again || u.stop || u.cmd != cmd {
		return
	}
	time.Sleep(50 * time.Millisecond) // RestartSec=
	if err := u.launch(); err != nil {
		fmt.Fprintf(u.stderr, "start %s: %v\n", u.name, err)
	}
}

// restart is `systemctl restart`: the main process is asked to end, and the next
// one is started as soon as it has.
func (u *unit) restart() {
	u.m.t.Helper()
	u.halt(unix.SIGTERM)
	u.mu.Lock()
	u.stop = false
	u.mu.Unlock()
	u.start()
}

// halt ends the main process.
func (u *unit) halt(s unix.Signal) {
	u.m.t.Helper()
	u.mu.Lock()
	u.stop = true
	cmd, ended := u.cmd, u.ended
	u.mu.Unlock()
	if cmd == nil {
		return
	}
	cmd.Process.Signal(s)
	select {
	case <-ended:
	case <-time.After(moreIfBusy * atLeast):
		cmd.Process.Kill()
		u.m.t.Errorf("%s did not end: %s", u.name, u.stderr)
	}
}

// waitReady waits for READY=1 of the present main process.
func (u *unit) waitReady(within time.Duration) {
	u.m.t.Helper()
	for start := time.Now(); ; {
		u.mu.Lock()
		ready := u.ready
		u.mu.Unlock()
		select {
		case <-ready:
			return
		case <-time.After(20 * time.Millisecond): // another one may have been started
		}
		if late(start, within) {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.m.t.Fatalf("%s is not ready after %s: %v\n%s", u.name, time.Since(start).Round(time.Millisecond), u.state, u.stderr)
		}
	}
}

// stored lists the names in the descriptor store.
func (u *unit) stored() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var names []string
	for name := range u.store {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// main gives the number of the main process.
func (u *unit) main() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.cmd.Process.Pid
}

// end stops everything and removes the cgroups.
func (m *serviceManager) end() {
	for _, u := range slices.Backward(m.units) {
		u.halt(unix.SIGTERM)
		u.notify.Close()
		for _, f := range u.store {
			f.Close()
		}
	}
	slice := filepath.Join(m.tree, m.slice)
	os.WriteFile(filepath.Join(slice, "cgroup.kill"), []byte("1"), 0)
	eventually(m.t, 10*time.Second, "the units' slice is removed", func() bool {
		children, _ := filepath.Glob(filepath.Join(slice, "*.service"))
		for _, c := range children {
			os.Remove(c)
		}
		err := os.Remove(slice)
		return err == nil || errors.Is(err, os.ErrNotExist)
	})
}
