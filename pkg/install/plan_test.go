package install

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// world is an empty host and a binary to put on it.
func world(t *testing.T) *Target {
	t.Helper()
	target := &Target{Root: t.TempDir(), Binary: filepath.Join(t.TempDir(), "sallyport"), State: "/var/lib/sallyport"}
	if err := os.WriteFile(target.Binary, []byte("version 1"), 0o700); err != nil {
		t.Fatal(err)
	}
	return target
}

func install(t *testing.T, target *Target) map[string]Action {
	t.Helper()
	steps, err := target.Plan()
	if err != nil {
		t.Fatal(err)
	}
	if err := target.Apply(steps); err != nil {
		t.Fatal(err)
	}
	actions := make(map[string]Action)
	for _, s := range steps {
		actions[s.File.Path] = s.Action
	}
	return actions
}

// files lists what is on the host, with its mode.
func (t *Target) files(tt *testing.T) map[string]fs.FileMode {
	tt.Helper()
	found := make(map[string]fs.FileMode)
	err := filepath.WalkDir(t.Root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		rel, _ := filepath.Rel(t.Root, p)
		found["/"+rel] = info.Mode().Perm()
		return err
	})
	if err != nil {
		tt.Fatal(err)
	}
	return found
}

func TestInstall(t *testing.T) {
	target := world(t)
	// Empty, and somebody else's.
	own, lib := target.path("/usr/share/fish"), target.path("/var/lib")
	if err := errors.Join(os.MkdirAll(own, 0o755), os.MkdirAll(lib, 0o755)); err != nil {
		t.Fatal(err)
	}
	for path, action := range install(t, target) {
		if action != Create {
			t.Errorf("first: %s %s", action, path)
		}
	}
	found := target.files(t)
	for _, f := range Files() {
		if found[f.Path] != f.Mode {
			t.Errorf("%s has mode %o, want %o", f.Path, found[f.Path], f.Mode)
		}
	}
	if len(found) != len(Files())+2 {
		t.Errorf("%d files, want the list, the checksum and the directories: %v", len(found), found)
	}
	if err := os.Chmod(target.path(Binary), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, action := range install(t, target) {
		if action != Same {
			t.Errorf("again: %s %s", action, path)
		}
	}
	if mode := target.files(t)[Binary]; mode != 0o755 {
		t.Errorf("a wrong mode stayed: %o", mode)
	}
	if err := target.Remove(true); err != nil {
		t.Fatal(err)
	}
	if found := target.files(t); len(found) != 0 {
		t.Errorf("left behind: %v", found)
	}
	var left []string
	filepath.WalkDir(target.Root, func(p string, _ fs.DirEntry, err error) error {
		left = append(left, p)
		return err
	})
	if want := []string{target.Root, target.path("/usr"), target.path("/usr/share"), own, target.path("/var"), lib}; !slices.Equal(left, want) {
		t.Errorf("there is %q, want what was there before: %q", left, want)
	}
}

// TestUpgrade: a newer version replaces what is ours, and a configuration only
// where nobody has touched it.
func TestUpgrade(t *testing.T) {
	target := world(t)
	install(t, target)
	if err := os.WriteFile(target.Binary, []byte("version 2"), 0o700); err != nil {
		t.Fatal(err)
	}
	// An older version's default, as it was put down.
	old := []byte("version: 1\n")
	for path, content := range map[string][]byte{Config: old, filepath.Join(target.State, checksumFile): []byte(sum(old) + "\n")} {
		if err := os.WriteFile(target.path(path), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if actions := install(t, target); actions[Binary] != Replace || actions[Config] != Replace {
		t.Errorf("binary %s, configuration that nobody touched %s", actions[Binary], actions[Config])
	}
	edited := []byte("version: 1\nmode: observe\n")
	if err := os.WriteFile(target.path(Config), edited, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if actions := install(t, target); actions[Config] != Keep {
			t.Errorf("edited configuration: %s", actions[Config])
		}
	}
	if have, err := os.ReadFile(target.path(Config)); err != nil || string(have) != string(edited) {
		t.Errorf("edited configuration: %q, %v", have, err)
	}
	if err := target.Remove(false); err != nil {
		t.Fatal(err)
	}
	if found := target.files(t); len(found) != 1 || found[Config] == 0 {
		t.Errorf("after a removal without purge: %v", found)
	}
}

// TestPackaged: what a package manager has put down is left to it.
func TestPackaged(t *testing.T) {
	target := world(t)
	if err := put(target.path(PackageMark), nil, 0o644, false); err != nil {
		t.Fatal(err)
	}
	if _, err := target.Plan(); !errors.Is(err, ErrPackaged) {
		t.Errorf("Plan: %v", err)
	}
	if err := target.Remove(true); !errors.Is(err, ErrPackaged) {
		t.Errorf("Remove: %v", err)
	}
}

// TestFiles: every file has a content, and no two have one place.
func TestFiles(t *testing.T) {
	var paths []string
	for _, f := range Files() {
		paths = append(paths, f.Path)
		if content, err := (&Target{Binary: os.Args[0]}).content(f); err != nil || len(content) == 0 {
			t.Errorf("%s: %d bytes, %v", f.Path, len(content), err)
		}
	}
	slices.Sort(paths)
	if n := len(slices.Compact(slices.Clone(paths))); n != len(paths) {
		t.Errorf("%d files in %d places", len(paths), n)
	}
}
