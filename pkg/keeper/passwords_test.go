package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/pkg/config"
)

// TestReadPasswords: each file is read once; one that is missing, or that others
// can read, stops the start and the reload.
func TestReadPasswords(t *testing.T) {
	dir := t.TempDir()
	good, open := filepath.Join(dir, "good"), filepath.Join(dir, "open")
	for name, mode := range map[string]os.FileMode{good: 0o600, open: 0o644} {
		if err := os.WriteFile(name, []byte("secret\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	of := func(files ...string) *config.Config {
		t.Helper()
		text := "rules:\n"
		for i, f := range files {
			text += fmt.Sprintf("  - { name: r%d, match: { hosts: [h%d.example] }, action: allow, upstream_proxy: { url: 'http://p%d', username: u, password_file: %s } }\n", i, i, i, f)
		}
		c, err := config.Parse([]config.File{{Name: "f", Data: []byte(text)}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	read, err := readPasswords(of(good, good))
	if err != nil || len(read) != 1 || read[0].Name != good || string(read[0].Data) != "secret\n" {
		t.Errorf("%+v, %v", read, err)
	}
	for name, want := range map[string]string{open: "others could read or change the password", filepath.Join(dir, "none"): "no such file", dir: "not a regular file"} {
		if _, err := readPasswords(of(good, name)); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "password_file") {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}
