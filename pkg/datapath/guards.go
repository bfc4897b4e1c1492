package datapath

import (
	"errors"
	"fmt"
	"os"
)

// Guards reports whether the cgroup at this directory has a program at each hook
// that guards a tagged cgroup, whoever attached it; the error names the first one
// that is missing.
func Guards(cgroup string) error {
	dir, err := os.Open(cgroup)
	if err != nil {
		return fmt.Errorf("datapath: cgroup: %w", err)
	}
	defer dir.Close()
	for _, h := range taggedHooks() {
		r, err := programsAt(dir, h.attach, 0)
		if err == nil && len(r.Programs) == 0 {
			err = errors.New("no program")
		}
		if err != nil {
			return fmt.Errorf("datapath: %s on %s: %w", h.name, cgroup, err)
		}
	}
	return nil
}
