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

// ensureBPFFS makes dir a directory on a BPF file system. If the host has none
// there, one is mounted on the nearest directory that exists: hosts without
// systemd often have an empty /sys/fs/bpf.
func ensureBPFFS(dir string) error {
	at := dir
	for {
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if err == nil {
			if st.Type != unix.BPF_FS_MAGIC {
				if err := mountBPFFS(at); err != nil {
					return err
				}
			}
			break
		}
		if !errors.Is(err, unix.ENOENT) || at == "/" {
			return fmt.Errorf("bpf_dir %s: %w", dir, err)
		}
		at = filepath.Dir(at)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("bpf_dir: %w", err)
	}
	return nil
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
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
			return nil // another instance's pins
		}
		return fmt.Errorf("bpf_dir: %w", err)
	}
	for at := filepath.Dir(dir); at != "/" && at != "."; at = filepath.Dir(at) {
		marker := filepath.Join(at, mountMarker)
		if _, err := os.Stat(marker); err != nil {
			continue
		}
		entries, err := os.ReadDir(at)
		if err != nil {
			return err
		}
		for _, e := range entries {
			// The first mount of a bpffs shows maps.debug and progs.debug.
			if e.IsDir() && e.Name() != mountMarker {
				return nil
			}
		}
		if err := os.Remove(marker); err != nil {
			return err
		}
		if err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount bpffs on %s: %w", at, err)
		}
		return nil
	}
	return nil
}
