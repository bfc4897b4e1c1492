package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Units gives the units that have a directory of their own (ForUnit), each with when
// something in it was last put in place.
func (t *Trust) Units() (map[string]time.Time, error) {
	entries, err := os.ReadDir(t.sharedDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("trust of units: %w", err)
	}
	units := make(map[string]time.Time)
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), unitPrefix)
		if !ok || !e.IsDir() {
			continue
		}
		if info, err := e.Info(); err == nil {
			units[name] = info.ModTime()
		}
	}
	return units, nil
}

// DropUnit removes the directory of a unit, which nothing may run with any more: who
// has it mounted finds it empty.
func (t *Trust) DropUnit(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	unlock, err := lockDir(t.sharedDir)
	if err != nil {
		return err
	}
	defer unlock()
	path := filepath.Join(t.sharedDir, unitPrefix+name)
	delete(t.own, path)
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("trust of unit %s: %w", name, err)
	}
	return nil
}
