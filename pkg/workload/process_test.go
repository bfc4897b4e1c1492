package workload

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLookUp(t *testing.T) {
	tree, path := testTree(t)
	c := create(t, tree, path)
	cmd := spawn(t, c, "sleep", "600")
	var p Process
	// The kernel closes descriptors, by which Start learns of exec, before it gives the
	// process its new name (begin_new_exec).
	for deadline := time.Now().Add(time.Minute); p.Comm != "sleep" && time.Now().Before(deadline); {
		var err error
		if p, err = LookUp(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
	}
	want, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if p.PID != cmd.Process.Pid || p.UID != 0 || p.Cgroup != path || p.Comm != "sleep" || !strings.HasSuffix(p.Exe, "/sleep") && !strings.HasSuffix(want, p.Exe) || p.Start == 0 {
		t.Errorf("%+v", p)
	}
	cmd.Process.Kill()
	// A zombie holds its pid and is gone all the same.
	for {
		if err := unix.Waitid(unix.P_PID, p.PID, nil, unix.WEXITED|unix.WNOWAIT, nil); err == nil {
			break
		} else if err != unix.EINTR {
			t.Fatal(err)
		}
	}
	if _, err := LookUp(p.PID); !errors.Is(err, ErrGone) {
		t.Errorf("a zombie: %v", err)
	}
	cmd.reap()
	if _, err := LookUp(p.PID); !errors.Is(err, ErrGone) {
		t.Errorf("ended: %v", err)
	}
	if _, err := LookUp(0); err == nil {
		t.Error("pid 0 is a process")
	}
}

func TestLookUpUser(t *testing.T) {
	tree, path := testTree(t)
	c := create(t, tree, path)
	dir, err := c.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Credential: &syscall.Credential{Uid: 65534, Gid: 65533}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if p, err := LookUp(cmd.Process.Pid); err != nil || p.UID != 65534 || p.GID != 65533 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestParseStat(t *testing.T) {
	const rest = " S 7 1 1 0 -1 4194560 1 1 0 0 0 0 0 0 20 0 1 0 424242 1 1"
	for in, want := range map[string]stat{
		"5 (sh)" + rest:            {"sh", 7, 424242},
		"5 (a) (b) S 9 (x)" + rest: {"a) (b) S 9 (x", 7, 424242},
		"5 ()" + rest:              {"", 7, 424242},
	} {
		if got, err := parseStat(in); err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "5 sh", ")(", "5 (sh) S 7", "5 (sh)" + strings.Replace(rest, "424242", "-1", 1), "5 (sh)" + strings.Replace(rest, " 7 ", " x ", 1)} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestEffectiveIDs(t *testing.T) {
	u, g, err := effectiveIDs("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n")
	if u != 2 || g != 6 || err != nil {
		t.Errorf("%d, %d, %v", u, g, err)
	}
	for _, bad := range []string{"", "Uid:\t1\t2\t3\t4\n", "Uid:\t1\nGid:\t5\t6\n", "Uid:\tx\ty\nGid:\t5\t6\n"} {
		if _, _, err := effectiveIDs(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("5 (a) b) S 7 1 1 0 -1 4194560 1 1 0 0 0 0 0 0 20 0 1 0 424242 1 1", "Uid:\t1\t2\nGid:\t5\t6\n")
	f.Fuzz(func(t *testing.T, stat, status string) {
		parseStat(stat)
		effectiveIDs(status)
	})
}

func BenchmarkLookUp(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := LookUp(os.Getpid()); err != nil {
			b.Fatal(err)
		}
	}
}
