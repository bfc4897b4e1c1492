package filter

import (
	"errors"
	"io"
	"time"

	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
	"sallyport/pkg/stage/decode"
	"sallyport/pkg/stage/size"
)

// A body is one that is judged before it is passed on.
type body struct {
	r       *run
	src     exchange.Body
	dec     *decode.Reader // nil: it is not encoded
	judge   judge
	trailer *exchange.Header
	share   share

	// keep has what is read of src kept in raw.
	keep bool
	raw  []byte
	// out[off:] is to be read; ended says that nothing follows.
	out   []byte
	off   int
	ended bool
	err   error
	// first, not nil, is done before anything is passed on.
	first func() error
}

// step is how much is read at once of a body that is held.
const step = 16 << 10

var _ exchange.Body = (*body)(nil)

// source is the body's source for a decoder.
type source struct{ b *body }

func (s source) Read(p []byte) (int, error) {
	n, err := s.b.src.Read(p)
	if s.b.keep {
		s.b.raw = append(s.b.raw, p[:n]...)
	}
	return n, err
}

// take judges the next bytes.
func (b *body) take(p []byte, last bool) error {
	if b.off == len(b.out) && !b.keep {
		b.out, b.off = b.out[:0], 0
	}
	if b.dec != nil {
		if refusal := size.Decoded(b.r.x, b.r.side.response, b.dec.Decoded()); refusal != nil {
			return refusal
		}
	}
	// What was judged before an error is passed on.
	out, err := b.judge.feed(b.out, p, last)
	if err == nil && last {
		if refusal := b.r.fields(b.trailer, true); refusal != nil {
			err = refusal
		}
	}
	b.out = out
	if err != nil {
		return err
	}
	b.ended = last
	return b.account()
}

// account counts what is held.
func (b *body) account() error {
	n := int64(b.judge.memory() + len(b.raw))
	if b.keep {
		n += int64(len(b.out))
	}
	if b.dec != nil {
		n += int64(b.dec.Memory())
	}
	if b.share.set(n) {
		return nil
	}
	r := b.r.x.Refuse(policy.Overloaded, "too many bodies are held back by filters at the same time; try again later")
	b.r.st.note("body not judged: there is no memory for more bodies")
	return r
}

// fill reads once, by way of in, and judges what came.
func (b *body) fill(in []byte) error {
	var n int
	var err error
	if b.dec != nil {
		n, err = b.dec.Read(in)
	} else {
		n, err = source{b}.Read(in)
	}
	if n > 0 || err == io.EOF {
		if terr := b.take(in[:n], err == io.EOF); terr != nil {
			return terr
		}
	}
	switch {
	case err == nil || err == io.EOF:
		return nil
	case errors.Is(err, decode.ErrBomb), errors.Is(err, decode.ErrCorrupt):
		return b.r.unreadable(cause(err))
	default:
		return err
	}
}

// cause says why a body could not be decoded, without what stands in it.
func cause(err error) string {
	if errors.Is(err, decode.ErrBomb) {
		return decode.ErrBomb.Error()
	}
	return decode.ErrCorrupt.Error()
}

// start does what is to be done first.
func (b *body) start() {
	if b.first != nil && b.err == nil {
		first := b.first
		b.first = nil
		if b.err = first(); b.err != nil {
			b.out = nil
		}
	}
}

// Read implements exchange.Body.
func (b *body) Read(p []byte) (int, error) {
	b.start()
	for b.off == len(b.out) && len(p) > 0 {
		switch {
		case b.err != nil:
			return 0, b.err
		case b.ended:
			return 0, io.EOF
		}
		// The reader's memory serves, so that a stream that waits holds none.
		b.err = b.fill(p)
	}
	n := copy(p, b.out[b.off:])
	b.off += n
	return n, nil
}

// Buffered implements exchange.Body.
func (b *body) Buffered() ([]byte, bool) {
	if b.first != nil {
		return nil, false
	}
	if b.dec == nil && !b.ended && b.err == nil {
		if p, last := b.src.Buffered(); len(p) > 0 || last {
			b.err = b.take(p, last)
			b.src.Discard(len(p))
		}
	}
	if b.err != nil && b.off == len(b.out) {
		return nil, false
	}
	return b.out[b.off:], b.ended && b.err == nil
}

// Discard implements exchange.Body.
func (b *body) Discard(n int) { b.off += n }

// Rewind implements exchange.Body: what was judged and passed on is not kept.
func (b *body) Rewind() bool { return false }

// Interrupt implements exchange.Body.
func (b *body) Interrupt() { b.src.Interrupt() }

// Complete implements exchange.Body.
func (b *body) Complete() bool { return b.src.Complete() }

// Transferred implements exchange.Body: what came off the wire.
func (b *body) Transferred() int64 { return b.src.Transferred() }

// errHeld is a body that is longer than what may be held.
var errHeld = errors.New("body is longer than the bound")

// hold reads the whole body, at most Bound bytes of it as it comes and as many
// decoded, and, where limit is not 0, as long as its pieces come within that
// time; else errHeld.
func (b *body) hold(limit time.Duration) error {
	b.keep = true
	defer func() { b.keep = false }()
	if b.r.step == nil {
		b.r.step = make([]byte, step)
	}
	begin := time.Now()
	for !b.ended {
		if err := b.fill(b.r.step); err != nil {
			return err
		}
		if len(b.raw) > Bound || len(b.out)+b.judge.held() > Bound || limit > 0 && !b.ended && time.Since(begin) > limit {
			return errHeld
		}
	}
	return nil
}

// close gives back what the body holds, when nobody reads it any more.
func (b *body) close() {
	if b.dec != nil {
		b.dec.Close()
	}
	b.share.set(0)
	// The run is used again.
	b.r.raw, b.r.passed = b.raw, b.out
}

// newBody makes the body that judges src.
func (s *Stage) newBody(r *run, k *kind, src exchange.Body, trailer *exchange.Header) *body {
	b := &body{r: r, src: src, judge: k.judge(r), trailer: trailer, share: share{m: s.o.Memory, workload: r.x.Subject.Workload}, raw: r.raw[:0], out: r.passed[:0]}
	if len(k.codings) > 0 {
		limit := int64(decode.Max)
		if k.stream {
			limit = 0
		}
		b.dec = decode.NewReader(source{b}, k.codings, limit)
	}
	r.st.bodies = append(r.st.bodies, b)
	return b
}
