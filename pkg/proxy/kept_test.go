package proxy

import (
	"bytes"
	"errors"
	"io"
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
		k := &kept{Body: src}
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

func TestKeptIsBounded(t *testing.T) {
	data := bytes.Repeat([]byte("x"), maxKept+1)
	k := &kept{Body: exchange.NewBytes(data)}
	if got, err := io.ReadAll(k); err != nil || !bytes.Equal(got, data) || k.Rewind() || k.buf != nil {
		t.Errorf("%v, %d bytes, %d kept", err, len(got), len(k.buf))
	}
}
