package keeper

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/config"
)

func TestReadCertificates(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode, size int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, size), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert := file("cert", 0o644, 3)
	key := file("key", 0o600, 4)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(key, link); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, cert, key, want string
	}{
		{"good", cert, key, ""},
		{"both in one file", key, key, ""},
		{"for a group", cert, file("group", 0o640, 4), ""},
		{"by a link", cert, link, ""},
		{"key for all", cert, file("all", 0o644, 4), "has mode 0644: others could read or change the key"},
		{"both in one file for all", file("both", 0o644, 4), filepath.Join(dir, "both"), "has mode 0644"},
		{"key that a group can change", cert, file("change", 0o620, 4), "has mode 0620"},
		{"no certificate", filepath.Join(dir, "none"), key, "no such file"},
		{"no key", cert, filepath.Join(dir, "none"), "no such file"},
		{"a directory", cert, dir, "not a regular file"},
		{"a pipe", cert, pipe, "not a regular file"},
		{"too large", cert, file("large", 0o600, maxFile+1), "too large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := &config.UpstreamTLS{Cert: tt.cert, Key: tt.key, At: "f.yaml:3:4"}
			c := &config.Config{Rules: []config.Rule{
				{Name: "a", Action: config.Allow, Handling: config.Inspect, UpstreamTLS: u},
				{Name: "b", Action: config.Allow, Handling: config.Inspect, UpstreamTLS: u},
			}}
			got, err := readCertificates(c)
			if tt.want != "" {
				if err == nil || !strings.HasPrefix(err.Error(), "f.yaml:3:4: upstream_tls: ") || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				return
			}
			want := 2
			if tt.cert == tt.key {
				want = 1
			}
			if err != nil || len(got) != want {
				t.Errorf("%d files, %v; want %d", len(got), err, want)
			}
		})
	}
}
