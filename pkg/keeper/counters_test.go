package keeper

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOpenCounters(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "counters")
	for range 2 {
		f, err := openCounters(name)
		if err != nil {
			t.Fatal(err)
		}
		if st, _ := f.Stat(); st.Mode() != 0o600 {
			t.Errorf("mode %v", st.Mode())
		}
		f.Close()
		os.Chmod(name, 0o644)
	}
	link := filepath.Join(dir, "link")
	os.Symlink(name, link)
	for _, bad := range []string{link, dir, filepath.Join(dir, "nowhere", "counters")} {
		if f, err := openCounters(bad); err == nil {
			f.Close()
			t.Errorf("%s was opened", bad)
		}
	}
}
