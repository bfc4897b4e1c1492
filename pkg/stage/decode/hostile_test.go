package decode

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// TestInnerBombs: what one coding becomes is bounded also where the next one
// makes nothing of it.
func TestInnerBombs(t *testing.T) {
	skipped := binary.LittleEndian.AppendUint32(nil, 0x184D2A50)
	skipped = binary.LittleEndian.AppendUint32(skipped, 1<<20)
	skipped = append(skipped, make([]byte, 1<<20)...)
	var empty bytes.Buffer
	if err := gzip.NewWriter(&empty).Close(); err != nil {
		t.Fatal(err)
	}
	members := bytes.Repeat(empty.Bytes(), 1<<20/empty.Len())
	for name, c := range map[string]struct {
		inner  []byte
		coding Coding
	}{"skippable frames": {skipped, Zstd}, "empty members": {members, Gzip}} {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		for range 8 {
			if _, err := z.Write(c.inner); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		r := NewReader(bytes.NewReader(b.Bytes()), []Coding{c.coding, Gzip}, Max)
		if n, err := io.Copy(io.Discard, r); !errors.Is(err, ErrBomb) {
			t.Errorf("%s: %d bytes of %d and %v in %s", name, n, b.Len(), err, time.Since(begin))
		}
	}
}

// TestMemory: a decoder tells what it holds.
func TestMemory(t *testing.T) {
	text := bytes.Repeat([]byte("some text "), 20)
	for _, window := range []int{1 << 20, 8 << 20} {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b, zstd.WithWindowSize(window))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := z.Write(text); err != nil {
				t.Fatal(err)
			}
			if err := z.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		r := NewReader(&b, []Coding{Zstd}, 0)
		if n, err := r.Read(make([]byte, 10)); n != 10 || err != nil {
			t.Fatal(n, err)
		}
		if m := r.Memory(); m < window || m > window+1<<20 {
			t.Errorf("window %d: %d bytes", window, m)
		}
		r.Close()
	}
	// A later frame cannot have more than the first was counted with.
	var b bytes.Buffer
	for _, window := range []int{1 << 18, 8 << 20} {
		z, err := zstd.NewWriter(&b, zstd.WithWindowSize(window))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := z.Write(text); err != nil {
				t.Fatal(err)
			}
			if err := z.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r := NewReader(&b, []Coding{Zstd}, 0)
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, ErrCorrupt) && r.Memory() < 8<<20 {
		t.Errorf("%v with %d bytes", err, r.Memory())
	}
}
