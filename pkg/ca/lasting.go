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

// unitPrefix begins the names of the directories of units.
const unitPrefix = "unit-"

// ForUnit is ForWorkload for a unit, whose directory lies beside the shared one at a
// path of its own that stays, and is changed in place. Without a usable file it is
// the lasting shared directory.
func (t *Trust) ForUnit(name string, kept []Kept) (*Directory, []error, error) {
	files, extra, problems := readKeptFiles(kept, "/", nil)
	if len(files) == 0 {
		return t.Lasting(), problems, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	path := filepath.Join(t.sharedDir, unitPrefix+name)
	if _, again := t.own[path]; !again && len(t.own) >= maxDirectories {
		return nil, problems, ErrFull
	}
	unlock, err := lockDir(t.sharedDir)
	if err != nil {
		return nil, problems, err
	}
	defer unlock()
	d := &Directory{trust: t, path: path, extra: extra, kept: files}
	snap, found := t.host.snapshot()
	problems = append(problems, found...)
	if err := d.write(snap); err != nil {
		return nil, problems, err
	}
	t.own[path] = d
	return d, problems, nil
}
