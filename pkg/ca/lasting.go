package ca

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// lastingLink is the name, beside the shared directories, of the link to the one
// with the root that is in force.
const lastingLink = "current"

// Lasting gives the shared directory under a path that stays when the root is
// replaced, for what is written down and used later: drop-ins of units and flags
// of containers. It is empty before the first Build.
func (t *Trust) Lasting() *Directory {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &Directory{trust: t, path: filepath.Join(t.sharedDir, lastingLink), places: slices.Clone(t.shared.places), java: t.shared.java}
}

// link points the lasting path to the shared directory. The caller holds both
// locks.
func (t *Trust) link() error {
	name, target := filepath.Join(t.sharedDir, lastingLink), filepath.Base(t.shared.path)
	if at, err := os.Readlink(name); err == nil && at == target {
		return nil
	}
	fresh := filepath.Join(t.sharedDir, ".new-"+lastingLink)
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := os.Symlink(target, fresh); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if err := os.Rename(fresh, name); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return nil
}
