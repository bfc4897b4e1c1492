package keeper

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func places(t *testing.T) Places {
	t.Helper()
	dir := t.TempDir()
	return Places{RuntimeDir: filepath.Join(dir, "run"), BPFDir: filepath.Join(dir, "bpf"), Table: "sallyport", Slice: "mcp.slice"}
}

// TestInstanceNames: instances share no name, an exec's cgroup is never below the
// slice, and nothing of the one lies in a directory of another.
func TestInstanceNames(t *testing.T) {
	for _, scopes := range []bool{false, true} {
		p := places(t)
		p.Scopes = scopes
		checkNames(t, p)
	}
}

func checkNames(t *testing.T, p Places) {
	all := []Instance{p.Service(), p.Exec(1), p.Exec(12), p.Exec(123)}
	for i, a := range all {
		for _, b := range all[i+1:] {
			for _, names := range [][2]string{{a.Name, b.Name}, {a.Table, b.Table}, {a.Pins, b.Pins}, {a.Tagged, b.Tagged}, {a.Home, b.Home}, {a.Runtime, b.Runtime}} {
				if names[0] == names[1] {
					t.Errorf("%s and %s share %s", a.Name, b.Name, names[0])
				}
				if strings.HasPrefix(names[1]+"/", names[0]+"/") || strings.HasPrefix(names[0]+"/", names[1]+"/") {
					t.Errorf("%s lies in %s", names[1], names[0])
				}
			}
		}
		if a.Tagged == a.Home || strings.HasPrefix(a.Home, a.Tagged+"/") {
			t.Errorf("%s: the keeper's cgroup %s lies in the tagged one %s", a.Name, a.Home, a.Tagged)
		}
		if !strings.HasPrefix(a.ProbeCgroup(), a.Tagged+"/") || !strings.HasPrefix(a.Command(), a.Tagged+"/") {
			t.Errorf("%s: probe and command must lie below the tagged cgroup", a.Name)
		}
	}
	for _, i := range all[1:] {
		if strings.HasPrefix(i.Tagged, "/"+p.Slice) {
			t.Errorf("%s: cgroup %s is below the slice", i.Name, i.Tagged)
		}
	}
}

func TestLock(t *testing.T) {
	i := places(t).Exec(7)
	first, err := i.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Lock(); !errors.Is(err, ErrRunning) {
		t.Errorf("second lock: %v, want ErrRunning", err)
	}
	first.Close()
	again, err := i.Lock()
	if err != nil {
		t.Fatalf("after the first owner ended: %v", err)
	}
	again.Close()
}

// TestLockSoon: a keeper that comes after one that was killed waits for what that one
// was just starting, which has the lock until it executes.
func TestLockSoon(t *testing.T) {
	i := places(t).Service()
	first, err := i.Lock()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(first.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	time.AfterFunc(50*time.Millisecond, func() { unix.Close(fd) })
	second, err := i.lockSoon(time.Minute)
	if err != nil {
		t.Fatalf("the last one's child had it: %v", err)
	}
	defer second.Close()
	if _, err := i.lockSoon(50 * time.Millisecond); !errors.Is(err, ErrRunning) {
		t.Errorf("beside a living keeper: %v, want ErrRunning", err)
	}
}

// TestLockOfRemovedFile: a lock on a file that has no name any more locks
// nothing. Whoever waited for it must take the new one.
func TestLockOfRemovedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", hostLock)
	first, err := lockFile(path, true)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *os.File)
	go func() {
		f, err := lockFile(path, true)
		if err != nil {
			t.Error(err)
		}
		got <- f
	}()
	// The second is in flock(2), or has not opened the file yet: both must work.
	time.Sleep(20 * time.Millisecond)
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	first.Close()
	second := <-got
	defer second.Close()
	if _, err := lockFile(path, false); err == nil {
		t.Error("two owners at a time")
	}
}

func TestExecs(t *testing.T) {
	p := places(t)
	if found, err := p.Execs(); err != nil || found != nil {
		t.Errorf("without a directory: %v, %v", found, err)
	}
	for _, name := range []string{"exec-12", "exec-3", "exec-", "exec-x", "service", "exec-4x"} {
		if err := os.MkdirAll(filepath.Join(p.RuntimeDir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(p.RuntimeDir, "exec-99"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := p.Execs()
	if diff := cmp.Diff([]Instance{p.Exec(12), p.Exec(3)}, found); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
}

// TestReleaseRuntime removes the shared directory only when it is empty but for
// the lock.
func TestReleaseRuntime(t *testing.T) {
	p := places(t)
	service := filepath.Join(p.RuntimeDir, "service")
	if err := os.MkdirAll(service, 0o755); err != nil {
		t.Fatal(err)
	}
	release := func() {
		t.Helper()
		if err := withHostLock(p.RuntimeDir, func() error { releaseRuntime(p.RuntimeDir); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	release()
	if _, err := os.Stat(service); err != nil {
		t.Errorf("another instance's directory is gone: %v", err)
	}
	os.Remove(service)
	release()
	if _, err := os.Stat(p.RuntimeDir); !os.IsNotExist(err) {
		t.Errorf("the empty directory stays: %v", err)
	}
}
