package ca

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHostStore: on each distribution our root goes where it is looked for, and
// out of there again.
func TestHostStore(t *testing.T) {
	if _, err := FindHostStore(t.TempDir()); !errors.Is(err, ErrNoHostStore) {
		t.Errorf("an unknown host: %v", err)
	}
	for _, want := range hostStores() {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, want.Dir), 0o755); err != nil {
			t.Fatal(err)
		}
		s, err := FindHostStore(root)
		if err != nil || s.Dir != filepath.Join(root, want.Dir) || strings.Join(s.Update, " ") != strings.Join(want.Update, " ") {
			t.Fatalf("%+v, %v", s, err)
		}
		for i, changed := range []bool{true, false} {
			if got, err := s.Put([]byte("a root")); err != nil || got != changed {
				t.Errorf("%s: put %d: changed %t, %v", want.Dir, i, got, err)
			}
		}
		names, err := os.ReadDir(s.Dir)
		if err != nil || len(names) != 1 || names[0].Name() != hostStoreName+want.Suffix {
			t.Errorf("%s holds %v", want.Dir, names)
		}
		for i, there := range []bool{true, false} {
			if got, err := s.Remove(); err != nil || got != there {
				t.Errorf("%s: remove %d: %t, %v", want.Dir, i, got, err)
			}
		}
	}
}
