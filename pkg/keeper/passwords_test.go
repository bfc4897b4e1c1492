package keeper

import (
	"errors"
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
		if err := errors.Join(os.WriteFile(name, []byte("secret\n"), mode), os.Chmod(name, mode)); err != nil {
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

// TestReadSecrets: the files of stages and of redis are read with the passwords;
// what others could read stops the start, and the error names the rule.
func TestReadSecrets(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte(name), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, pw, ca, open := write("key", 0o640), write("pw", 0o600), write("ca", 0o644), write("open", 0o604)
	of := func(secret string) *config.Config {
		t.Helper()
		text := fmt.Sprintf(`
redis: { password_file: %s, tls: true, ca_file: %s }
defaults: { auth: { header: X-Api-Key, secret_file: %s } }
rules:
  - { name: one, match: { hosts: a.example }, action: allow }
  - { name: two, match: { hosts: b.example }, action: allow }
  - { name: without, match: { hosts: c.example }, action: allow, auth: off }
`, pw, ca, secret)
		c, err := config.Parse([]config.File{{Name: "f", Data: []byte(text)}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	read, err := readPasswords(of(key))
	if err != nil || len(read) != 3 || read[0].Name != key || string(read[1].Data) != "pw" || read[2].Name != ca {
		t.Errorf("%+v, %v", read, err)
	}
	if _, err := readPasswords(of(open)); err == nil || !strings.Contains(err.Error(), `rule "one": auth.secret_file: `+open+` has mode 0604: others could read or change the secret`) {
		t.Errorf("%v", err)
	}
	if _, err := readPasswords(of(filepath.Join(dir, "none"))); err == nil || strings.Count(err.Error(), "no such file") != 1 {
		t.Errorf("%v", err)
	}
}
