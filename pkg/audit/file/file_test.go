package file

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func mustOpen(t *testing.T, o Options) *Files {
	t.Helper()
	if o.UID == 0 && o.GID == 0 {
		o.UID, o.GID = -1, -1
	}
	f, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// write appends text to the present file.
func write(t *testing.T, f *Files, text string) {
	t.Helper()
	d, err := f.Descriptor()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// contents gives the files of a directory by name.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		m[e.Name()] = string(b)
	}
	return m
}

func list(m map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, name+"="+m[name])
	}
	return strings.Join(parts, " ")
}

func TestOpenMakesTheFile(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	path := filepath.Join(t.TempDir(), "log", "audit.jsonl")
	f := mustOpen(t, Options{Path: path, MaxFiles: 3})
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	d, err := f.Descriptor()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, d.Fd(), syscall.F_GETFL, 0)
	if errno != 0 || flags&syscall.O_APPEND == 0 || flags&syscall.O_ACCMODE != syscall.O_WRONLY {
		t.Errorf("flags %#o, %v", flags, errno)
	}
	if _, err := d.Read(make([]byte, 1)); err == nil {
		t.Error("the descriptor can read")
	}
	write(t, f, "one\n")
	// A second start goes on in the same file.
	again := mustOpen(t, Options{Path: path, MaxFiles: 3})
	write(t, again, "two\n")
	if got := list(contents(t, filepath.Dir(path))); got != "audit.jsonl=one\ntwo\n" {
		t.Error(got)
	}
}

func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	f := mustOpen(t, Options{Path: path, Mode: 0o600, UID: 1234, GID: 2345, MaxFiles: 1})
	d, err := f.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	for _, name := range []string{path, path + ".1"} {
		info, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Uid != 1234 || st.Gid != 2345 || info.Mode() != 0o600 {
			t.Errorf("%s: %d:%d %v", name, st.Uid, st.Gid, info.Mode())
		}
	}
}

func TestRotate(t *testing.T) {
	tests := []struct {
		name     string
		maxFiles int
		before   map[string]string
		want     string
	}{
		{"first", 3, map[string]string{"a": "x"}, "a= a.1=x"},
		{"all move", 3, map[string]string{"a": "x", "a.1": "y", "a.2": "z"}, "a= a.1=x a.2=y a.3=z"},
		{"the oldest goes", 2, map[string]string{"a": "x", "a.1": "y", "a.2": "z"}, "a= a.1=x a.2=y"},
		{"a smaller setting", 1, map[string]string{"a": "x", "a.1": "y", "a.2": "z", "a.3": "w"}, "a= a.1=x"},
		{"none kept", 0, map[string]string{"a": "x", "a.1": "y"}, "a="},
		{"a free number is used", 5, map[string]string{"a": "x", "a.1": "y", "a.3": "z"}, "a= a.1=x a.2=y a.3=z"},
		{"ten and more", 12, map[string]string{"a": "x", "a.1": "1", "a.2": "2", "a.3": "3", "a.4": "4", "a.5": "5", "a.6": "6", "a.7": "7", "a.8": "8", "a.9": "9", "a.10": "10"},
			"a= a.1=x a.10=9 a.11=10 a.2=1 a.3=2 a.4=3 a.5=4 a.6=5 a.7=6 a.8=7 a.9=8"},
		{"left by a crash before the renames", 3, map[string]string{"a": "x", "a.1": "y", "a.new": ""}, "a= a.1=x a.2=y"},
		{"other names stay", 3, map[string]string{"a": "x", "a.1.gz": "y", "b.1": "z"}, "a= a.1=x a.1.gz=y b.1=z"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range tt.before {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			f := mustOpen(t, Options{Path: filepath.Join(dir, "a"), MaxFiles: tt.maxFiles})
			d, err := f.Rotate()
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if got := list(contents(t, dir)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if _, err := d.WriteString("new"); err != nil {
				t.Fatal(err)
			}
			if got := contents(t, dir)["a"]; got != "new" {
				t.Errorf("the new descriptor wrote %q", got)
			}
		})
	}
}

// TestCrashInTheMiddleOfRotate starts from what each crash point leaves.
func TestCrashInTheMiddleOfRotate(t *testing.T) {
	tests := []struct {
		name   string
		before map[string]string
		want   string
	}{
		{"the numbers have moved, the file has not", map[string]string{"a": "x", "a.2": "y", "a.new": ""}, "a=xnew a.2=y a.new="},
		{"the file has moved, the new one has not", map[string]string{"a.1": "x", "a.2": "y", "a.new": ""}, "a=new a.1=x a.2=y a.new="},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range tt.before {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			f := mustOpen(t, Options{Path: filepath.Join(dir, "a"), MaxFiles: 3})
			write(t, f, "new")
			if got := list(contents(t, dir)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			d, err := f.Rotate()
			if err != nil {
				t.Fatal(err)
			}
			d.Close()
			after := contents(t, dir)
			if _, left := after["a.new"]; left || after["a"] != "" || after["a.1"] == "" {
				t.Errorf("after the next rotation: %s", list(after))
			}
		})
	}
}

func TestRotateThatFailsChangesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	f := mustOpen(t, Options{Path: path, MaxFiles: 3})
	write(t, f, "x")
	// A directory in the place of the new file cannot be unlinked as a file.
	if err := os.MkdirAll(path+".new/x", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Rotate(); err == nil {
		t.Fatal("it succeeded")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := os.Lstat(path + ".1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("path.1: %v", err)
	}
}

func TestUnsafeFilesAreRefused(t *testing.T) {
	root := os.Geteuid() == 0
	tests := []struct {
		name string
		make func(t *testing.T, path string) error
		want string
	}{
		{"symbolic link", func(t *testing.T, path string) error {
			target := filepath.Join(t.TempDir(), "target")
			if err := os.WriteFile(target, nil, 0o600); err != nil {
				return err
			}
			return os.Symlink(target, path)
		}, "is a symbolic link"},
		{"dangling link", func(t *testing.T, path string) error { return os.Symlink("/nonexistent/x", path) }, "is a symbolic link"},
		{"hard link", func(t *testing.T, path string) error {
			if err := os.WriteFile(path+".other", nil, 0o600); err != nil {
				return err
			}
			return os.Link(path+".other", path)
		}, "second name"},
		{"fifo", func(t *testing.T, path string) error { return syscall.Mkfifo(path, 0o600) }, "not a regular file"},
		{"directory", func(t *testing.T, path string) error { return os.Mkdir(path, 0o700) }, "is a directory"},
		{"socket", func(t *testing.T, path string) error {
			l, err := net.Listen("unix", path)
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		}, "not a regular file"},
		{"device", func(t *testing.T, path string) error {
			if !root {
				t.Skip("only root makes devices")
			}
			err := syscall.Mknod(path, syscall.S_IFCHR|0o600, 1<<8|3)
			if errors.Is(err, syscall.EPERM) {
				t.Skip("no devices can be made here")
			}
			return err
		}, "not a regular file"},
		{"writable by all", func(t *testing.T, path string) error {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Chmod(path, 0o666)
		}, "everybody may write"},
		{"of another user", func(t *testing.T, path string) error {
			if !root {
				t.Skip("only root can give files away")
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Chown(path, 4321, 4321)
		}, "belongs to uid 4321"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			if err := tt.make(t, path); err != nil {
				t.Fatal(err)
			}
			f, err := Open(Options{Path: path, UID: -1, GID: -1})
			if err == nil {
				f.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v; want %q", err, tt.want)
			}
			if tt.want != "is a directory" && !errors.Is(err, ErrUnsafe) {
				t.Errorf("%v is not ErrUnsafe", err)
			}
		})
	}
	for _, path := range []string{"", "/", "/tmp/", "/tmp/.", ".."} {
		if _, err := Open(Options{Path: path}); err == nil {
			t.Errorf("%q was opened", path)
		}
	}
}

// TestLinkIsNotFollowedByRotation: who may write to the directory cannot make
// the privileged process write elsewhere.
func TestLinkIsNotFollowedByRotation(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "a")
	f := mustOpen(t, Options{Path: path, MaxFiles: 2})
	for _, name := range []string{path + ".new", path + ".1", path + ".2"} {
		if err := os.Symlink(victim, name); err != nil {
			t.Fatal(err)
		}
	}
	d, err := f.Rotate()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(victim); string(b) != "precious" {
		t.Errorf("the victim holds %q", b)
	}
}

func TestEnd(t *testing.T) {
	long := strings.Repeat("y", 300)
	tests := []struct {
		name          string
		present, last string
		want          End
	}{
		{"nothing", "", "", End{}},
		{"one line", "abc\n", "", End{Line: []byte("abc\n")}},
		{"the end of a long line", long + "\n", "", End{Line: []byte(long[:127] + "\n")}},
		{"empty after a rotation", "", "abc\n", End{Line: []byte("abc\n")}},
		{"torn", "abc\nde", "", End{Line: []byte("abc\n"), Torn: true}},
		{"torn far back", "abc\n" + strings.Repeat("z", 500000), "", End{Line: []byte("abc\n"), Torn: true}},
		{"torn first line", "de", "abc\n", End{Line: []byte("abc\n"), Torn: true}},
		{"torn beyond the bound", "abc\n" + strings.Repeat("z", searchBytes+200), "", End{Torn: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a")
			if err := os.WriteFile(path, []byte(tt.present), 0o600); err != nil {
				t.Fatal(err)
			}
			if tt.last != "" {
				if err := os.WriteFile(path+".1", []byte(tt.last), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f := mustOpen(t, Options{Path: path})
			got, err := f.End()
			if err != nil {
				t.Fatal(err)
			}
			if tt.name == "the end of a long line" && len(got.Line) != EndBytes {
				t.Errorf("%d bytes", len(got.Line))
			}
			if fmt.Sprintf("%q %v", got.Line, got.Torn) != fmt.Sprintf("%q %v", tt.want.Line, tt.want.Torn) {
				t.Errorf("got %q %v, want %q %v", got.Line, got.Torn, tt.want.Line, tt.want.Torn)
			}
		})
	}
}
