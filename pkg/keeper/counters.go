package keeper

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// countersFile is where the worker keeps the counters of rate limits, in
// state_dir.
const countersFile = "counters"

// counters opens the file of counters for the worker, which may not open files
// itself; nil for an exec, whose counters end with it.
func (k *Keeper) counters() (*os.File, error) {
	if k.options.Standalone {
		return nil, nil
	}
	k.mu.Lock()
	dir := k.config.StateDir
	k.mu.Unlock()
	return openCounters(filepath.Join(dir, countersFile))
}

// openCounters makes the file where there is none. Only its owner may read it:
// it has names of workloads and hosts.
func openCounters(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("counters of rate limits: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("counters of rate limits: %s is not a regular file; remove it", name)
	}
	if err == nil {
		err = f.Chmod(0o600)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
