package datapath_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
	"sallyport/pkg/origin"
	"sallyport/test/outside"
)

// The two ends of the cable between the workload's namespace and the "internet".
var (
	inside4  = netip.MustParseAddr("203.0.113.2")
	outside4 = netip.MustParseAddr("203.0.113.1")
	inside6  = netip.MustParseAddr("2001:db8::2")
	outside6 = netip.MustParseAddr("2001:db8::1")
)

var worlds atomic.Int32

// A world is one sallyport without guard and worker: a network namespace with our
// listeners in it, a second one with an origin at the other end of a cable, and a
// temporary bpffs. Whatever TCP or UDP packet reaches the far end is counted.
type world struct {
	t       testing.TB
	name    string
	d       *datapath.Datapath
	options datapath.Options
	root    string // cgroup2
	inside  *os.File
	outside *os.File
	netns   uint64
	reader  *origin.Reader

	tcp4, tcp6 *net.TCPListener
	dns4, dns6 *net.UDPConn
	probe      *net.TCPListener

	wire *outside.Wire // the far end of the cable

	mu       sync.Mutex
	accepted []accepted
	events   []datapath.Event
	changed  chan struct{}

	stopEvents func()
}

func cgroupRoot(t testing.TB) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if i := strings.Index(line, " - cgroup2 "); i > 0 && fields[3] == "/" {
			return fields[4]
		}
	}
	t.Skip("no cgroup2 mount")
	return ""
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: BPF, namespaces and cgroups")
	}
}

// bpffs mounts a BPF file system of the test's own.
func bpffs(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpffs: %v", err)
	}
	t.Cleanup(func() {
		err := unix.Unmount(dir, 0)
		// Whoever asks all mounts of the host for something holds this one meanwhile.
		for range 2000 {
			if err != unix.EBUSY {
				break
			}
			time.Sleep(5 * time.Millisecond)
			err = unix.Unmount(dir, 0)
		}
		if err != nil {
			t.Errorf("unmount bpffs: %v", err)
		}
	})
	return dir
}

func newWorld(t testing.TB, change ...func(*datapath.Options)) *world {
	t.Helper()
	needRoot(t)
	w := &world{
		t:       t,
		name:    fmt.Sprintf("sp-dp-%d-%d", os.Getpid(), worlds.Add(1)),
		root:    cgroupRoot(t),
		changed: make(chan struct{}, 1),
	}
	w.inside, w.outside = outside.NewNamespace(t), outside.NewNamespace(t)
	w.cable()
	w.netns = netnsCookie(t, w.inside)
	w.options = datapath.Options{
		PinDir:       filepath.Join(bpffs(t), "sallyport"),
		Places:       256,
		CgroupRoot:   w.root,
		KeeperCgroup: w.root,
	}
	for _, c := range change {
		c(&w.options)
	}
	d, err := datapath.Create(w.options)
	if err != nil {
		t.Fatal(err)
	}
	w.d = d
	t.Cleanup(func() {
		if err := w.d.Unload(); err != nil {
			t.Errorf("unload: %v", err)
		}
	})
	w.listen()
	w.openReader()
	w.watch()
	return w
}

func (w *world) openReader() {
	am, err := w.d.AcceptedMap()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { am.Close() })
	km, err := w.d.AskerMap()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { km.Close() })
	w.reader = origin.NewReader(am, km)
}

// watch collects events.
func (w *world) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	d := w.d
	go func() {
		done <- d.Events(ctx, func(e datapath.Event) {
			w.mu.Lock()
			w.events = append(w.events, e)
			w.mu.Unlock()
			w.wake()
		})
	}()
	w.stopEvents = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("events: %v", err)
		}
	})
	w.t.Cleanup(w.stopEvents)
}

func (w *world) wake() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// await polls a condition, under w.mu, until it holds.
func (w *world) await(what string, cond func() bool) {
	w.t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if w.holds(cond) {
			return
		}
		select {
		case <-w.changed:
		case <-tick.C:
		case <-deadline:
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("timed out waiting for %s\naccepted: %+v\nevents: %+v", what, w.accepted, w.events)
		}
	}
}

func (w *world) holds(cond func() bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock() // also where cond ends the test
	return cond()
}

// event waits for an event that fits and gives it.
func (w *world) event(what string, fits func(datapath.Event) bool) datapath.Event {
	w.t.Helper()
	var found datapath.Event
	w.await("event: "+what, func() bool {
		for _, e := range w.events {
			if fits(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func (w *world) refused(r datapath.Reason) uint64 {
	w.t.Helper()
	all, err := w.d.Refusals()
	if err != nil {
		w.t.Fatal(err)
	}
	return all[r]
}

func (w *world) resource(name string) uint64 {
	w.t.Helper()
	all, err := w.d.Resources()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range all {
		if r.Name == name {
			return r.Entries
		}
	}
	w.t.Fatalf("no resource %s", name)
	return 0
}

// cgroup makes a cgroup below the root and removes it at the end.
func (w *world) cgroup(name string) string {
	w.t.Helper()
	dir := filepath.Join(w.root, w.name+"-"+name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		// Tasks leave a cgroup a moment after they are reaped.
		for range 2000 {
			if err := unix.Rmdir(dir); err == nil || errors.Is(err, unix.ENOENT) {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		w.t.Errorf("cgroup %s stays", dir)
	})
	return dir
}

// workload makes and tags a cgroup.
func (w *world) workload(name string) string {
	w.t.Helper()
	dir := w.cgroup(name)
	if err := w.d.Attach(dir); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
