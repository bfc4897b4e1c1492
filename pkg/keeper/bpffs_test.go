package keeper

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBPFFSHidesNothing: bpf_dir may lie anywhere. The file system is mounted
// on bpf_dir itself, and what stands beside it stays visible; afterwards
// neither mount nor directory is left.
func TestBPFFSHidesNothing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	for name, prepare := range map[string]func(t *testing.T, bpfDir string){
		"missing": func(*testing.T, string) {},
		"there": func(t *testing.T, bpfDir string) {
			if err := os.Mkdir(bpfDir, 0o700); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			// A thread with mounts of its own, which ends with the goroutine.
			runtime.LockOSThread()
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				t.Fatal(err)
			}
			parent := t.TempDir()
			neighbour := filepath.Join(parent, "neighbour")
			if err := os.WriteFile(neighbour, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			bpfDir := filepath.Join(parent, "bpf")
			prepare(t, bpfDir)
			for _, instance := range []string{"service", "exec-1"} {
				if err := ensureBPFFS(filepath.Join(bpfDir, instance)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := os.Stat(neighbour); err != nil {
				t.Errorf("the mount hides what stands beside bpf_dir: %v", err)
			}
			if _, kind, err := nearest(filepath.Join(bpfDir, "service")); err != nil || kind != unix.BPF_FS_MAGIC {
				t.Errorf("pins would lie on file system %#x, %v", kind, err)
			}
			// The mount stays for as long as one instance needs it.
			os.Remove(filepath.Join(bpfDir, "service"))
			if err := releaseBPFFS(bpfDir); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(bpfDir, "exec-1")); err != nil {
				t.Errorf("pins of another instance: %v", err)
			}
			os.Remove(filepath.Join(bpfDir, "exec-1"))
			if err := releaseBPFFS(bpfDir); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(bpfDir); !os.IsNotExist(err) {
				t.Errorf("bpf_dir is left: %v", err)
			}
		})
	}
}
