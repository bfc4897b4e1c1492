package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountMarker is left in the root of a bpffs that we mounted, so that the last
// instance unmounts it and nobody unmounts the host's own. bpffs holds nothing
// but directories and pins, hence a directory.
const mountMarker = "mounted-by-sallyport"

// ensureBPFFS makes pins a directory on a BPF file system. If the host has none
// there, one is mounted: on the directory that the kernel keeps for it where
// pins is to lie below that (hosts without systemd often have an empty
// /sys/fs/bpf), else on the parent of pins, which is bpf_dir. Never on a
// directory that was there for something else: a mount hides what it holds.
func ensureBPFFS(pins string) error {
	dir := filepath.Dir(pins)
	at, kind, err := nearest(pins)
	if err != nil {
		return fmt.Errorf("bpf_dir %s: %w", dir, err)
	}
	if kind != unix.BPF_FS_MAGIC {
		if kind != unix.SYSFS_MAGIC {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return fmt.Errorf("bpf_dir: %w", err)
			}
			at = dir
		}
		if err := mountBPFFS(at); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(pins, 0o700); err != nil {
		return fmt.Errorf("bpf_dir: %w", err)
	}
	return nil
}

// nearest gives the nearest directory to path, upwards, that exists, and the
// type of its file system.
func nearest(path string) (at string, kind int64, err error) {
	for at = path; ; at = filepath.Dir(at) {
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if err == nil {
			return at, int64(st.Type), nil
		}
		if !errors.Is(err, unix.ENOENT) || at == "/" {
			return "", 0, err
		}
	}
}

func mountBPFFS(at string) error {
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RELATIME)
	if err := unix.Mount("bpf", at, "bpf", flags, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs on %s: %w", at, err)
	}
	if err := os.Mkdir(filepath.Join(at, mountMarker), 0o700); err != nil {
		return fmt.Errorf("bpffs on %s: %w", at, err)
	}
	return nil
}

// releaseBPFFS removes dir if it is empty, and the mount if it is ours and
// holds nothing of anybody.
func releaseBPFFS(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, mountMarker)); err == nil {
		if gone, err := unmountBPFFS(dir); !gone || err != nil {
			return err
		}
		return removeEmpty(dir)
	}
	if err := removeEmpty(dir); err != nil {
		return err
	}
	for at := filepath.Dir(dir); at != "/" && at != "."; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, mountMarker)); err == nil {
			_, err := unmountBPFFS(at)
			return err
		}
	}
	return nil
}

// removeEmpty removes a directory unless something is in it: then those are
// another instance's pins.
func removeEmpty(dir string) error {
	err := os.Remove(dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
		return nil
	}
	return fmt.Errorf("bpf_dir: %w", err)
}

// unmountBPFFS takes away a mount of ours unless somebody has pins there.
func unmountBPFFS(at string) (gone bool, err error) {
	entries, err := os.ReadDir(at)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		// The first mount of a bpffs shows maps.debug and progs.debug.
		if e.IsDir() && e.Name() != mountMarker {
			return false, nil
		}
	}
	if err := os.Remove(filepath.Join(at, mountMarker)); err != nil {
		return false, err
	}
	if err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW); err != nil {
		return false, fmt.Errorf("unmount bpffs on %s: %w", at, err)
	}
	return true, nil
}
