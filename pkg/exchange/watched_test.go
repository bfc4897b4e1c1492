package exchange

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// A slowBody is a body that comes in pieces.
type slowBody struct {
	Bytes
	step int
}

func (b *slowBody) Read(p []byte) (int, error) { return b.Bytes.Read(p[:min(b.step, len(p))]) }

func (b *slowBody) Buffered() ([]byte, bool) {
	p, _ := b.Bytes.Buffered()
	return p[:min(b.step, len(p))], b.step >= len(p)
}

type recorder struct {
	seen  bytes.Buffer
	ends  int
	limit int
}

var errLimit = errors.New("limit")

func (r *recorder) Watch(p []byte, last bool) error {
	r.seen.Write(p)
	if last {
		r.ends++
	}
	if r.limit > 0 && r.seen.Len() > r.limit {
		return errLimit
	}
	return nil
}

const text = "a body that is longer than a step"

// drain reads b by turns through Buffered and Read.
func drain(b Body, buffered bool) (string, error) {
	var out bytes.Buffer
	for {
		if buffered {
			p, last := b.Buffered()
			n := len(p)
			if n > 1 && !last {
				n--
			}
			out.Write(p[:n])
			b.Discard(n)
			if last {
				return out.String(), nil
			}
		}
		p := make([]byte, 5)
		n, err := b.Read(p)
		out.Write(p[:n])
		if err == io.EOF {
			return out.String(), nil
		}
		if err != nil {
			return out.String(), err
		}
	}
}

func TestWatchShowsEachByteOnce(t *testing.T) {
	for _, buffered := range []bool{false, true} {
		for step := 1; step <= len(text)+1; step++ {
			var r recorder
			b := Watch(&slowBody{*NewBytes([]byte(text)), step}, &r)
			if got, err := drain(b, buffered); got != text || err != nil {
				t.Fatalf("step %d, buffered %v: read %q, %v", step, buffered, got, err)
			}
			if r.seen.String() != text || r.ends != 1 {
				t.Fatalf("step %d, buffered %v: seen %q, %d ends", step, buffered, &r.seen, r.ends)
			}
			if !b.Rewind() {
				t.Fatal("cannot be started anew")
			}
			if got, err := drain(b, buffered); got != text || err != nil || r.seen.String() != text || r.ends != 1 {
				t.Fatalf("step %d, buffered %v: a second time read %q, %v; seen %q", step, buffered, got, err, &r.seen)
			}
		}
	}
}

func TestWatchStopsWhereTheWatcherObjects(t *testing.T) {
	for _, buffered := range []bool{false, true} {
		r := recorder{limit: 10}
		got, err := drain(Watch(&slowBody{*NewBytes([]byte(text)), 3}, &r), buffered)
		if !errors.Is(err, errLimit) || len(got) > 10 {
			t.Errorf("buffered %v: %q, %v", buffered, got, err)
		}
	}
}
