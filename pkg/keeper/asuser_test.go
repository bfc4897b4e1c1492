package keeper

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAsUser: a file that only root may read is not opened for a user who names
// it, one of a group is, and this process stays who it is.
func TestAsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: cannot take on another user's rights")
	}
	const uid, gid, group = 61001, 61002, 61003
	dir := t.TempDir()
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if st, err := os.Stat(d); err == nil && st.Mode()&0o005 == 0 {
			if err := os.Chmod(d, st.Mode()|0o055); err != nil {
				t.Fatal(err)
			}
		}
	}
	make := func(name string, mode fs.FileMode, uid, gid int) string {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(p, []byte(name), 0o600), os.Chown(p, uid, gid), os.Chmod(p, mode)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	secret := make("secret", 0o600, 0, 0)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(secret, link); err != nil {
		t.Fatal(err)
	}
	open := asUser(uid, gid, []int{group})
	for name, c := range map[string]struct {
		path string
		want error
	}{
		"root's":          {secret, unix.EACCES},
		"root's by link":  {link, unix.EACCES},
		"root's group's":  {make("wheel", 0o640, 0, 0), unix.EACCES},
		"the user's":      {make("own", 0o400, uid, 0), nil},
		"the group's":     {make("primary", 0o040, 0, gid), nil},
		"another group's": {make("supplementary", 0o040, 0, group), nil},
	} {
		f, err := open(c.path)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err == nil {
			f.Close()
		}
	}
	for range 100 {
		if _, err := os.ReadFile(secret); err != nil {
			t.Fatalf("this process lost its own rights: %v", err)
		}
	}
	if f, err := asUser(0, 0, nil)(secret); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
}
