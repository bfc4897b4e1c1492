package proxy

import (
	"bytes"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"sallyport/pkg/exchange"
)

// parts is a body that comes in pieces, of which some can be had at once.
type parts struct {
	exchange.Bytes
	all [][]byte
	err error
}

func (p *parts) Read(b []byte) (int, error) {
	for len(p.all) > 0 && len(p.all[0]) == 0 {
		p.all = p.all[1:]
	}
	if len(p.all) == 0 {
		return 0, p.err
	}
	n := copy(b, p.all[0])
	p.all[0] = p.all[0][n:]
	return n, nil
}

func (p *parts) Buffered() ([]byte, bool) {
	switch {
	case len(p.all) == 0:
		return nil, p.err == io.EOF
	default:
		return p.all[0], len(p.all) == 1 && p.err == io.EOF
	}
}

func (p *parts) Discard(n int) {
	if p.all[0] = p.all[0][n:]; len(p.all[0]) == 0 {
		p.all = p.all[1:]
	}
}

// TestKept: however a body is read, each start gives the same.
func TestKept(t *testing.T) {
	broken := errors.New("broken")
	rapid.Check(t, func(t *rapid.T) {
		src := &parts{err: io.EOF}
		if rapid.Bool().Draw(t, "broken") {
			src.err = broken
		}
		var want []byte
		for _, p := range rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 1, 50)).Draw(t, "pieces") {
			src.all = append(src.all, p)
			want = append(want, p...)
		}
		end := src.err
		k, _, _ := newKept(src)
		for range 3 {
			var got []byte
			stop := rapid.IntRange(0, len(want)).Draw(t, "stop")
			whole := rapid.Bool().Draw(t, "whole")
			for whole || len(got) < stop {
				if rapid.Bool().Draw(t, "buffered") {
					p, last := k.Buffered()
					n := rapid.IntRange(0, len(p)).Draw(t, "n")
					got = append(got, p[:n]...)
					if len(p) > 0 {
						k.Discard(n)
					}
					if last && n == len(p) {
						break
					}
					continue
				}
				b := make([]byte, rapid.IntRange(1, 40).Draw(t, "size"))
				n, err := k.Read(b)
				got = append(got, b[:n]...)
				if err != nil {
					if err != end {
						t.Fatalf("%v, want %v", err, end)
					}
					break
				}
			}
			if !bytes.HasPrefix(want, got) || whole && len(got) != len(want) {
				t.Fatalf("got %d bytes of %d", len(got), len(want))
			}
			if !k.Rewind() {
				t.Fatal("not kept")
			}
		}
	})
}

// newKept gives a kept body with what is counted for it.
func newKept(b exchange.Body) (k *kept, own, all *atomic.Int64) {
	own, all = new(atomic.Int64), new(atomic.Int64)
	return &kept{Body: b, own: own, all: all}, own, all
}

// TestKeptBytesAreCounted: a body is kept while there is room for it, and its
// room is free again at the end, whatever became of it.
func TestKeptBytesAreCounted(t *testing.T) {
	for name, full := range map[string]func(own, all *atomic.Int64){
		"room":                  func(_, _ *atomic.Int64) {},
		"the workload has none": func(own, all *atomic.Int64) { own.Add(maxKeptWorkload - 9) },
		"nobody has any":        func(own, all *atomic.Int64) { all.Add(maxKeptAll - 9) },
	} {
		k, own, all := newKept(exchange.NewBytes([]byte("ten bytes.")))
		full(own, all)
		ownBefore, allBefore := own.Load(), all.Load()
		if got, err := io.ReadAll(k); err != nil || string(got) != "ten bytes." {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		want := int64(10)
		if name != "room" {
			want = 0
		}
		if k.Rewind() != (want > 0) || own.Load()-ownBefore != want || all.Load()-allBefore != want {
			t.Errorf("%s: %d and %d bytes counted", name, own.Load()-ownBefore, all.Load()-allBefore)
		}
		k.drop()
		if k.Rewind() || own.Load() != ownBefore || all.Load() != allBefore {
			t.Errorf("%s: %d and %d bytes are left", name, own.Load()-ownBefore, all.Load()-allBefore)
		}
	}
}

func TestKeptIsBounded(t *testing.T) {
	data := bytes.Repeat([]byte("x"), maxKept+1)
	k, own, all := newKept(exchange.NewBytes(data))
	if got, err := io.ReadAll(k); err != nil || !bytes.Equal(got, data) || k.Rewind() || k.buf != nil || own.Load() != 0 || all.Load() != 0 {
		t.Errorf("%v, %d bytes, %d kept", err, len(got), len(k.buf))
	}
}
