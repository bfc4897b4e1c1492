package datapath_test

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
)

// pinned opens the pin of a link as an operator's tool would.
func pinned(t testing.TB, w *world, owner, name string) (link.Link, string) {
	t.Helper()
	path := filepath.Join(w.options.PinDir, "v1", "links", owner+"-"+name)
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, path
}

func ownerOf(t testing.TB, group string) string {
	t.Helper()
	var b []byte
	for id := inode(t, group); id > 0; id /= 10 {
		b = append([]byte{byte('0' + id%10)}, b...)
	}
	return string(b)
}

func detachLink(t testing.TB, w *world, group, name string) {
	t.Helper()
	l, _ := pinned(t, w, ownerOf(t, group), name)
	d, ok := l.(interface{ Detach() error })
	if !ok {
		t.Fatalf("%T cannot be detached", l)
	}
	if err := d.Detach(); err != nil {
		t.Fatal(err)
	}
}

func TestSupported(t *testing.T) {
	needRoot(t)
	if err := datapath.Supported(); err != nil {
		t.Fatal(err)
	}
}

// Whatever is detached by hand is seen and restored.
func TestVerifyAndRepair(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	id := ownerOf(t, group)
	clean := func() {
		t.Helper()
		problems, err := w.d.Verify()
		if err != nil || len(problems) != 0 {
			t.Fatalf("problems %v, %v", problems, err)
		}
	}
	clean()
	for _, tt := range []struct{ owner, name string }{
		{id, "connect4"}, {id, "connect6"}, {id, "sendmsg4"}, {id, "sendmsg6"}, {id, "recvmsg4"}, {id, "recvmsg6"},
		{id, "getpeername4"}, {id, "getpeername6"}, {id, "sock_create"}, {id, "sock_release"}, {id, "set_option"}, {id, "sock_ops"}, {id, "egress"},
		{"root", "connect4"}, {"root", "connect6"}, {"root", "sendmsg4"}, {"root", "sendmsg6"}, {"keeper", "sock_ops"},
	} {
		t.Run(tt.owner+"-"+tt.name, func(t *testing.T) {
			_, path := pinned(t, w, tt.owner, tt.name)
			for _, how := range []string{"detached", "unpinned"} {
				if how == "detached" {
					l, _ := pinned(t, w, tt.owner, tt.name)
					if err := l.(interface{ Detach() error }).Detach(); err != nil {
						t.Fatal(err)
					}
				} else if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				problems, err := w.d.Verify()
				if err != nil || len(problems) != 1 {
					t.Fatalf("%s: problems %v, %v", how, problems, err)
				}
				if err := w.d.Repair(); err != nil {
					t.Fatal(err)
				}
				clean()
			}
		})
	}
	// It works after all these repairs.
	c := w.spawn(group)
	fd := c.tcp(unix.AF_INET)
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
	c.must(call{Op: "send", FD: fd, Data: "repaired"})
	if a := w.acceptedAs("repaired"); a.err != nil {
		t.Error(a.err)
	}
	w.sealed()
}

// What happens while a program is detached leads out nowhere as long as egress is
// there, and the other way round for plain programs.
func TestDetachedProgramsLeadNowhere(t *testing.T) {
	for _, name := range []string{"connect4", "sock_create", "sock_ops", "sendmsg4"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			o := w.origin("203.0.113.1:443")
			group := w.workload("a")
			detachLink(t, w, group, name)
			c := w.spawn(group)
			fd := c.tcp(unix.AF_INET)
			c.hurry(fd)
			_ = c.do(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
			_ = c.do(call{Op: "send", FD: fd, Data: "x", Flags: unix.MSG_NOSIGNAL | unix.MSG_DONTWAIT})
			udp := c.udp(unix.AF_INET)
			_ = c.do(call{Op: "sendto", FD: udp, Addr: "203.0.113.1:443", Data: "x"})
			if n := o.connections.Load(); n != 0 || o.data() != "" {
				t.Errorf("the origin got %d connections and %q", n, o.data())
			}
			w.sealed()
		})
	}
}

func TestOpenAdopts(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	c := w.spawn(group)
	fd := c.tcp(unix.AF_INET)
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
	c.must(call{Op: "send", FD: fd, Data: "before"})
	w.acceptedAs("before")
	if err := w.d.SetDirect([]datapath.DirectRule{direct(0, "198.51.100.0/24", 1, 1, datapath.TCP, "rule")}); err != nil {
		t.Fatal(err)
	}
	if _, err := datapath.Create(w.options); !errors.Is(err, datapath.ErrExists) {
		t.Errorf("a second Create: %v, want ErrExists", err)
	}
	// One link is gone and one was detached when the next process comes.
	_, path := pinned(t, w, ownerOf(t, group), "recvmsg4")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	detachLink(t, w, group, "sock_ops")
	// The next one has a map more.
	more := filepath.Join(filepath.Dir(filepath.Dir(path)), "maps", "refusals_told")
	if err := os.Remove(more); err != nil {
		t.Fatal(err)
	}

	next, err := datapath.Open(w.options)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if problems, err := next.Verify(); err != nil || len(problems) != 0 {
		t.Errorf("problems %v, %v", problems, err)
	}
	if _, err := os.Stat(more); err != nil {
		t.Errorf("the map that is new has no pin: %v", err)
	}
	if got := next.Tagged(); len(got) != 1 || got[group] != inode(t, group) {
		t.Errorf("tagged %v", got)
	}
	flows, err := next.Flows()
	if err != nil || len(flows) != 1 || flows[0].Dst != netip.MustParseAddrPort("203.0.113.1:443") {
		t.Errorf("flows %+v, %v", flows, err)
	}
	// The flow that was open goes on, and new ones are captured.
	c.must(call{Op: "recv", FD: fd})
	c.must(call{Op: "send", FD: fd, Data: "after"})
	if got := c.must(call{Op: "recv", FD: fd}).Data; got != "after" {
		t.Errorf("answer %q", got)
	}
	fd = c.tcp(unix.AF_INET)
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:444"})
	c.must(call{Op: "send", FD: fd, Data: "new"})
	if a := w.acceptedAs("new"); a.err != nil {
		t.Error(a.err)
	}
	w.sealed()
}

func TestOpenWithoutPins(t *testing.T) {
	needRoot(t)
	root := cgroupRoot(t)
	fs := bpffs(t)
	o := datapath.Options{PinDir: filepath.Join(fs, "x"), CgroupRoot: root, KeeperCgroup: root, Places: 2}
	if _, err := datapath.Open(o); !errors.Is(err, datapath.ErrNotPinned) {
		t.Errorf("got %v, want ErrNotPinned", err)
	}
	if err := os.MkdirAll(filepath.Join(o.PinDir, "v0"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := datapath.Open(o); !errors.Is(err, datapath.ErrIncompatible) {
		t.Errorf("got %v, want ErrIncompatible", err)
	}
	if err := datapath.Remove(o.PinDir); err != nil {
		t.Fatal(err)
	}
	// A failed Create leaves nothing.
	o.KeeperCgroup = filepath.Join(root, "no-such-cgroup")
	if _, err := datapath.Create(o); err == nil {
		t.Error("created with a keeper's cgroup that does not exist")
	}
	if entries, _ := os.ReadDir(o.PinDir); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestUnloadLeavesNothing(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	c := w.spawn(group)
	w.stopEvents()
	if err := w.d.Unload(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(w.options.PinDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins stay: %v", err)
	}
	// Nothing is attached: a raw socket can be made again.
	if r := c.do(call{Op: "socket", Family: unix.AF_INET, Type: unix.SOCK_RAW, Protocol: unix.IPPROTO_RAW}); r.Errno != 0 {
		t.Errorf("raw socket after unload: %v", r.err())
	}
	// The clean-up of the world unloads again.
	d, err := datapath.Create(w.options)
	if err != nil {
		t.Fatal(err)
	}
	w.d = d
}

func TestTags(t *testing.T) {
	w := newWorld(t)
	group := w.workload("a")
	if err := w.d.Attach(group); err != nil {
		t.Errorf("tagging again: %v", err)
	}
	if err := w.d.Attach(w.cgroup("a/sub")); !errors.Is(err, datapath.ErrNested) {
		t.Errorf("below a tagged cgroup: %v, want ErrNested", err)
	}
	if err := w.d.Attach(w.root); err == nil {
		t.Error("the root can be tagged")
	}
	if err := w.d.Attach("/proc"); err == nil {
		t.Error("what is no cgroup can be tagged")
	}
	// A cgroup that is gone is no problem, and is forgotten.
	short := w.cgroup("short")
	if err := w.d.Attach(short); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(short); err != nil {
		t.Fatal(err)
	}
	if problems, err := w.d.Verify(); err != nil || len(problems) != 0 {
		t.Errorf("problems %v, %v", problems, err)
	}
	if err := w.d.Detach(short); err != nil {
		t.Error(err)
	}
	// A detached cgroup is free again.
	if err := w.d.Detach(group); err != nil {
		t.Fatal(err)
	}
	c := w.spawn(group)
	fd := c.tcp(unix.AF_INET)
	c.fails(call{Op: "connect", FD: fd, Addr: "203.0.113.1:9"}, unix.ECONNREFUSED)
	if got := w.d.Tagged(); len(got) != 0 {
		t.Errorf("tagged %v", got)
	}
}

func TestSweepFreesSharesOfGoneWorkloads(t *testing.T) {
	w := newWorld(t)
	slice := w.cgroup("slice")
	if err := w.d.AttachSlice(slice); err != nil {
		t.Fatal(err)
	}
	unit := w.cgroup("slice/unit")
	c := w.spawn(unit)
	fd := c.tcp(unix.AF_INET)
	c.must(call{Op: "connect", FD: fd, Addr: "203.0.113.1:443"})
	if err := w.d.Sweep(); err != nil {
		t.Fatal(err)
	}
	if n := w.resource("bpf_workloads"); n != 1 {
		t.Fatalf("%d workloads, want 1", n)
	}
	c.end()
	w.await("no place in use", func() bool { return w.resource("bpf_places") == 0 })
	w.await("the unit's end", func() bool { return unix.Rmdir(unit) == nil })
	if err := w.d.Sweep(); err != nil {
		t.Fatal(err)
	}
	if n := w.resource("bpf_workloads"); n != 0 {
		t.Errorf("%d workloads after the sweep", n)
	}
}

// The self-probe's second address goes to a loopback port of ours, for the probe's
// cgroup alone; in the product the guard refuses it there.
func TestProbe(t *testing.T) {
	w := newWorld(t)
	slice := w.cgroup("slice")
	if err := w.d.AttachSlice(slice); err != nil {
		t.Fatal(err)
	}
	probe, other := w.cgroup("slice/probe"), w.cgroup("slice/other")
	blocked := netip.MustParseAddrPort("192.0.2.77:443")
	if err := w.d.SetProbe(datapath.Probe{Cgroup: inode(t, probe), Blocked: blocked}); err != nil {
		t.Fatal(err)
	}
	port := func(dir, dst string) uint16 {
		c := w.spawn(dir)
		fd := c.tcp(unix.AF_INET)
		c.must(call{Op: "connect", FD: fd, Addr: dst})
		c.must(call{Op: "send", FD: fd, Data: dir + dst})
		a := w.acceptedAs(dir + dst)
		if a.err != nil || a.flow.Dst.String() != dst {
			t.Errorf("%s: flow %+v, %v", dst, a.flow, a.err)
		}
		return netip.MustParseAddrPort(a.conn.LocalAddr().String()).Port()
	}
	l := w.listeners()
	if got := port(probe, blocked.String()); got != l.Probe.Port() {
		t.Errorf("the probe's second address went to port %d, want %d", got, l.Probe.Port())
	}
	if got := port(probe, "192.0.2.78:443"); got != l.TCP4.Port() {
		t.Errorf("the probe's first address went to port %d, want %d", got, l.TCP4.Port())
	}
	if got := port(other, blocked.String()); got != l.TCP4.Port() {
		t.Errorf("another workload reaches port %d, want %d", got, l.TCP4.Port())
	}
	w.sealed()
}

// The committed reasons are those of the programs: each name is in enum sp_reason.
func TestReasonsAreThoseOfThePrograms(t *testing.T) {
	source, err := os.ReadFile("../../bpf/types.h")
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, r := range datapath.Reasons() {
		name := []byte("SP_" + string(bytes.ToUpper([]byte(r.String()))) + ",")
		i := bytes.Index(source[at:], name)
		if i < 0 {
			t.Errorf("%s is not in enum sp_reason, or in another order", name)
			continue
		}
		at += i
	}
}
