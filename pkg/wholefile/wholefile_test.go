package wholefile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// entries are the names in a directory.
func entries(t *testing.T, dir string) string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.conf")
	for _, mode := range []fs.FileMode{0o600, 0o666, 0o644} {
		content := []byte(mode.String())
		if err := Write(path, content, mode); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode {
			t.Errorf("mode %s, want %s whatever the umask", info.Mode(), mode)
		}
		if have, err := Read(path, 100); err != nil || !bytes.Equal(have, content) {
			t.Errorf("holds %q, %v; want %q", have, err, content)
		}
	}
	if names := entries(t, dir); names != "a.conf" {
		t.Errorf("the directory holds %s", names)
	}
}

// A link is replaced: what it leads to may be somebody else's.
func TestWriteReplacesALink(t *testing.T) {
	dir := t.TempDir()
	target, path := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(target, []byte("theirs"), 0o600), os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile(target); err != nil || string(have) != "theirs" {
		t.Errorf("what the link led to holds %q, %v", have, err)
	}
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the link is still one: %v, %v", info.Mode(), err)
	}
}

func TestWriteThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	inTheWay := filepath.Join(dir, "a")
	if err := os.MkdirAll(filepath.Join(inTheWay, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(inTheWay, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if names := entries(t, dir); names != "a" {
		t.Errorf("the directory holds %s", names)
	}
	if err := Write(filepath.Join(dir, "none", "b"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}

// Whoever reads meanwhile sees one content or another, never a part or none.
func TestReadersSeeAWholeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	const size = 100_000
	write := func(c byte) {
		if err := Write(path, bytes.Repeat([]byte{c}, size), 0o600); err != nil {
			t.Error(err)
		}
	}
	write('a')
	var writer sync.WaitGroup
	var writes atomic.Int32
	done := make(chan struct{})
	writer.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			write('a' + byte(writes.Add(1)%2))
		}
	})
	defer writer.Wait()
	defer close(done)
	// Both are at it, whoever the host lets run first.
	for reads := 0; reads < 50 || writes.Load() < 50; reads++ {
		data, err := Read(path, size)
		if err != nil || len(data) != size || bytes.Count(data, data[:1]) != size {
			t.Fatalf("read %d bytes, %v", len(data), err)
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	file, pipe, link := filepath.Join(dir, "file"), filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, []byte("12345"), 0o600), unix.Mkfifo(pipe, 0o600), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, path string
		most       int64
		want       error
	}{
		{"at the bound", file, 5, nil},
		{"beyond it", file, 4, ErrTooLarge},
		{"through a link", link, 5, nil},
		{"a directory", dir, 5, ErrNotRegular},
		{"a pipe that nobody writes to", pipe, 5, ErrNotRegular},
		{"a device without end", "/dev/zero", 5, ErrNotRegular},
		{"none", filepath.Join(dir, "none"), 5, fs.ErrNotExist},
	} {
		t.Run(test.name, func(t *testing.T) {
			late := time.AfterFunc(time.Minute, func() { panic("it waits") })
			defer late.Stop()
			data, err := Read(test.path, test.most)
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			if test.want == nil && string(data) != "12345" {
				t.Errorf("read %q", data)
			}
		})
	}
	if _, _, err := Open(link, unix.O_NOFOLLOW); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link that is not to be followed: %v", err)
	}
}
