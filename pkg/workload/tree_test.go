package workload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testTree is the host's hierarchy and a fresh path below it.
func testTree(t testing.TB) (*Tree, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes cgroups")
	}
	tree, err := FindTree()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	path := fmt.Sprintf("/sallyport-test-%d-%s", os.Getpid(), strings.Map(func(r rune) rune {
		if r == '/' {
			return '_'
		}
		return r
	}, t.Name()))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c, err := tree.Cgroup(path)
		if errors.Is(err, ErrGone) {
			return
		}
		if err == nil {
			if err = c.Kill(ctx); err == nil {
				err = c.Remove(ctx)
			}
		}
		if err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return tree, path
}

func create(t testing.TB, tree *Tree, path string) Cgroup {
	t.Helper()
	c, err := tree.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A child is reaped once, by the test or at its end.
type child struct {
	*exec.Cmd
	once sync.Once
}

func (c *child) reap() { c.once.Do(func() { c.Wait() }) }

// spawn starts a process in the cgroup.
func spawn(t testing.TB, c Cgroup, argv ...string) *child {
	t.Helper()
	dir, err := c.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &child{Cmd: cmd}
	t.Cleanup(func() { cmd.Process.Kill(); p.reap() })
	return p
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestCgroupIdentity(t *testing.T) {
	tree, path := testTree(t)
	c := create(t, tree, path+"/a/b")
	if c.Level() != 3 || c.Path() != path+"/a/b" || c.Dir() != tree.Point()+c.Path() {
		t.Errorf("level %d, path %s, dir %s", c.Level(), c.Path(), c.Dir())
	}
	info, err := os.Stat(c.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if ino := info.Sys().(*syscall.Stat_t).Ino; ino != c.ID() {
		t.Errorf("id %d, inode %d", c.ID(), ino)
	}
	if _, err := tree.Create(path + "/a/b"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made again: %v", err)
	}
	// A tree without memory asks the kernel by handle.
	fresh, err := OpenTree(tree.Point())
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	got, err := fresh.ByID(c.ID())
	if err != nil || got.Path() != c.Path() {
		t.Fatalf("by id: %v, %v", got, err)
	}
	if root, err := fresh.ByID(rootID); err != nil || root.Path() != "/" || root.Level() != 0 {
		t.Errorf("root by id: %v, %v", root, err)
	}
	if err := c.Remove(soon(t)); err != nil {
		t.Fatal(err)
	}
	if got, err := fresh.ByID(c.ID()); err != nil || got.Path() != c.Path() {
		t.Errorf("a removed cgroup that was known: %v, %v", got, err)
	}
	other, err := OpenTree(tree.Point())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.ByID(c.ID()); !errors.Is(err, ErrGone) {
		t.Errorf("a removed cgroup: %v", err)
	}
	again := create(t, tree, path+"/a/b")
	if again.ID() == c.ID() {
		t.Error("a new cgroup has the old id")
	}
	for name, call := range map[string]func() error{
		"procs":     func() error { _, err := c.Procs(); return err },
		"populated": func() error { _, err := c.Populated(); return err },
		"open":      func() error { _, err := c.Open(); return err },
		"move":      func() error { return c.Move(0) },
	} {
		if err := call(); !errors.Is(err, ErrGone) {
			t.Errorf("%s of a cgroup made again: %v", name, err)
		}
	}
	if err := c.Remove(soon(t)); err != nil {
		t.Error(err)
	}
	if _, err := again.Open(); err != nil {
		t.Errorf("removing the old one took the new: %v", err)
	}
}

func TestBadPaths(t *testing.T) {
	tree, _ := testTree(t)
	for _, p := range []string{"", "a", "/a/../..", "/..", "/a\x00b"} {
		if _, err := tree.Cgroup(p); err == nil {
			t.Errorf("%q is accepted", p)
		}
		if _, err := tree.Create(p); err == nil {
			t.Errorf("%q is made", p)
		}
	}
	if _, err := tree.Cgroup("/cgroup.procs"); err == nil {
		t.Error("a control file is a cgroup")
	}
	if _, err := tree.Cgroup("/absent"); !errors.Is(err, ErrGone) {
		t.Errorf("absent: %v", err)
	}
	if _, err := OpenTree("/proc"); !errors.Is(err, ErrNotSupported) {
		t.Errorf("another file system: %v", err)
	}
	root, err := tree.Cgroup("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Remove(soon(t)); err == nil {
		t.Error("the root was removed")
	}
	if p, err := root.Populated(); !p || err != nil {
		t.Error("the root is empty")
	}
}

func TestProcessesOfACgroup(t *testing.T) {
	tree, path := testTree(t)
	c := create(t, tree, path)
	if p, err := c.Populated(); p || err != nil {
		t.Fatalf("new: %v, %v", p, err)
	}
	cmd := spawn(t, c, "sleep", "600")
	pids, err := c.Procs()
	if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("%v, %v", pids, err)
	}
	if got, err := tree.OfProcess(cmd.Process.Pid); err != nil || got.ID() != c.ID() {
		t.Errorf("of process: %v, %v", got, err)
	}
	sub := create(t, tree, path+"/sub")
	if err := sub.Move(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if pids, err := c.Procs(); err != nil || len(pids) != 0 {
		t.Errorf("after moving: %v, %v", pids, err)
	}
	if p, err := c.Populated(); !p || err != nil {
		t.Errorf("with a child populated: %v, %v", p, err)
	}
	if err := sub.Move(1 << 30); !errors.Is(err, ErrGone) {
		t.Errorf("moving nobody: %v", err)
	}
	if _, err := tree.OfProcess(1 << 30); !errors.Is(err, ErrGone) {
		t.Errorf("cgroup of nobody: %v", err)
	}
}

func TestKillAndRemove(t *testing.T) {
	for name, kill := range map[string]func(Cgroup, context.Context) error{
		"cgroup.kill": Cgroup.Kill,
		"freeze":      Cgroup.killFrozen,
	} {
		t.Run(name, func(t *testing.T) {
			tree, path := testTree(t)
			c := create(t, tree, path)
			deep := create(t, tree, path+"/a/b")
			cmds := []*child{
				spawn(t, c, "sh", "-c", "trap '' TERM HUP INT; while :; do sleep 600; done"),
				spawn(t, deep, "sh", "-c", "sleep 600 & wait"),
			}
			short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			if err := c.Remove(short); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("removed though it lives: %v", err)
			}
			for _, cmd := range cmds {
				go cmd.reap() //, so that it leaves the cgroup
			}
			if err := kill(c, soon(t)); err != nil {
				t.Fatal(err)
			}
			if err := c.Remove(soon(t)); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(c.Dir()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("still there: %v", err)
			}
			if err := c.Kill(soon(t)); err != nil {
				t.Errorf("kill when gone: %v", err)
			}
			if err := c.Remove(soon(t)); err != nil {
				t.Errorf("remove when gone: %v", err)
			}
		})
	}
}

func TestWatch(t *testing.T) {
	tree, path := testTree(t)
	c := create(t, tree, path)
	states := make(chan bool)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watch := func(ctx context.Context) { done <- c.Watch(ctx, func(p bool) { states <- p }) }
	go watch(ctx)
	expect := func(want bool) {
		t.Helper()
		select {
		case got := <-states:
			if got != want {
				t.Fatalf("populated %v, want %v", got, want)
			}
		case err := <-done:
			t.Fatalf("ended: %v", err)
		case <-time.After(time.Minute):
			t.Fatal("no notice")
		}
	}
	expect(false)
	quickest := time.Hour
	for range 5 {
		started := time.Now()
		cmd := spawn(t, c, "sleep", "600")
		expect(true)
		cmd.Process.Kill()
		cmd.reap()
		expect(false)
		quickest = min(quickest, time.Since(started))
	}
	if quickest > lookAgain {
		t.Errorf("two notices took %v at least: they came by looking again", quickest)
	}
	if err := c.Remove(soon(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("after removal: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("still watching what is gone")
	}
	c = create(t, tree, path)
	go watch(ctx)
	expect(false)
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("still watching after the context ended")
	}
}

// TestNamespaces: the tree is found where this mount namespace has it, and a
// cgroup namespace, whose levels are not the kernel's, is refused.
func TestNamespaces(t *testing.T) {
	tree, path := testTree(t)
	c := create(t, tree, path)
	find := func(flags uintptr, script string) (string, error) {
		dir, err := c.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		cmd := exec.Command("sh", "-c", script+` && exec "$0" -test.run '^TestPrintTree$' -test.v`, os.Args[0])
		cmd.Env = append(os.Environ(), "WORKLOAD_PRINT_TREE=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Unshareflags: flags}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err = cmd.Run()
		return out.String(), err
	}
	elsewhere := t.TempDir()
	out, err := find(unix.CLONE_NEWNS, "mount --bind "+tree.Point()+" "+elsewhere+" && umount "+tree.Point())
	if err != nil || !strings.Contains(out, "point="+elsewhere+"\n") {
		t.Errorf("mounted elsewhere: %v, %s", err, out)
	}
	out, err = find(unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP, "umount "+tree.Point()+" && mount -t cgroup2 none "+elsewhere)
	if err != nil || !strings.Contains(out, "error=") || !strings.Contains(out, "cgroup namespace") {
		t.Errorf("in a cgroup namespace: %v, %s", err, out)
	}
	out, err = find(unix.CLONE_NEWNS, "umount "+tree.Point())
	if err != nil || !strings.Contains(out, "error=no cgroup2") {
		t.Errorf("not mounted: %v, %s", err, out)
	}
}

// TestPrintTree is what TestNamespaces runs elsewhere.
func TestPrintTree(t *testing.T) {
	if os.Getenv("WORKLOAD_PRINT_TREE") == "" {
		t.Skip("started by TestNamespaces")
	}
	tree, err := FindTree()
	if err != nil {
		fmt.Printf("error=%v\n", err)
		if !errors.Is(err, ErrNotSupported) {
			t.Error("not ErrNotSupported")
		}
		return
	}
	fmt.Printf("point=%s\n", tree.Point())
}

func TestParseMountinfo(t *testing.T) {
	got, err := ParseMountinfo(strings.NewReader(
		"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n" +
			"42 31 0:39 /a\\040b /mnt/x\\011y rw shared:1 master:2 propagate_from:3 - ext4 /dev/sda1 rw\n" +
			"43 31 0:40 /../.. /c rw - cgroup2 none rw\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{{41, "/", "/sys/fs/cgroup/unified", "cgroup2"}, {42, "/a b", "/mnt/x\ty", "ext4"}, {43, "/../..", "/c", "cgroup2"}}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	for _, bad := range []string{"", "x", "1 2 3 4 5 6 7", "x 31 0:38 / /p rw - cgroup2 c rw", "1 2 - ext4", "41 31 0:38 / /p rw - ", strings.Repeat("x", maxMountinfoLine+1)} {
		if _, err := ParseMountinfo(strings.NewReader(bad + "\n")); err == nil {
			t.Errorf("%.40q is accepted", bad)
		}
	}
	if m, err := Mounts(); err != nil || len(m) == 0 {
		t.Errorf("own: %v, %v", m, err)
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add("41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n")
	f.Add("42 31 0:39 /a\\040b /mnt/\\ rw - ext4 /dev/sda1 rw\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		mounts, err := ParseMountinfo(strings.NewReader(s))
		if err != nil {
			return
		}
		for _, m := range mounts {
			if m.Type == "" {
				t.Errorf("%+v", m)
			}
		}
	})
}

func TestParseProcCgroup(t *testing.T) {
	for in, want := range map[string]string{
		"0::/\n": "/", "9:name=systemd:/x\n0::/system.slice/a.service\n": "/system.slice/a.service", "0::/a": "/a",
		"0::/a:b\n": "/a:b",
	} {
		if got, err := ParseProcCgroup(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for in, want := range map[string]error{
		"": ErrNotSupported, "1:cpu:/\n": ErrNotSupported, "0::/../x\n": ErrNotSupported, "0::x\n": ErrNotSupported,
		"0::/a (deleted)\n": ErrGone,
	} {
		if _, err := ParseProcCgroup(in); !errors.Is(err, want) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func FuzzParseProcCgroup(f *testing.F) {
	f.Add("0::/a\n")
	f.Add("1:cpu:/\n0::/../x (deleted)")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParseProcCgroup(s); err == nil && (!filepath.IsAbs(p) || strings.Contains(p+"/", "/../")) {
			t.Errorf("%q", p)
		}
	})
}

func TestParsePopulated(t *testing.T) {
	if _, err := parsePopulated("frozen 0\n"); err == nil {
		t.Error("nothing said is an answer")
	}
}

func BenchmarkByID(b *testing.B) {
	tree, path := testTree(b)
	c := create(b, tree, path)
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := tree.ByID(c.ID()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("asked", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := tree.pathOf(c.ID()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
