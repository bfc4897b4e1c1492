package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEach(t *testing.T) {
	a := stay(t, syscall.CLONE_NEWNET)
	inA, err := InodeOf(a.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	own, err := InodeOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// One without a process, which only its mount keeps.
	path := filepath.Join(t.TempDir(), "ns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mounted := newNamespace(t)
	inMounted, err := Inode(mounted)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", mounted.Fd()), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	times := make(map[uint64]int)
	err = Each([]string{path, path, "/nonexistent"}, func(ns *os.File) error {
		inode, err := Inode(ns)
		times[inode]++
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for what, inode := range map[string]uint64{"own": own, "of a process": inA, "mounted": inMounted} {
		if times[inode] != 1 {
			t.Errorf("%s: %d times", what, times[inode])
		}
	}
}
