package size

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
)

// A counted body gives a byte with each Read, so that it tells how far it was
// read.
type counted struct {
	exchange.Bytes
	read int
}

func (b *counted) Read(p []byte) (int, error) {
	n, err := b.Bytes.Read(p[:min(len(p), 1)])
	b.read += n
	return n, err
}

func (b *counted) Buffered() ([]byte, bool) { return nil, false }

func TestLimits(t *testing.T) {
	s := New(&config.SizeLimit{Request: 10, Response: 20})
	for _, c := range []struct {
		size     int
		declared bool
		response bool
		observe  bool
		// early: before anything is passed on; late: in the body.
		early, late bool
	}{
		{size: 10, declared: true}, {size: 10}, {size: 11, declared: true, early: true}, {size: 11, late: true}, {size: 1000, late: true},
		{size: 11, declared: true, observe: true}, {size: 11, observe: true},
		{size: 20, declared: true, response: true}, {size: 20, response: true}, {size: 21, declared: true, response: true, early: true}, {size: 21, response: true, late: true},
		{size: 21, response: true, observe: true},
	} {
		x := &exchange.Exchange{}
		x.Subject.Observe = c.observe
		body := &counted{Bytes: *exchange.NewBytes(bytes.Repeat([]byte("x"), c.size))}
		length := exchange.UnknownLength
		if c.declared {
			length = int64(c.size)
		}
		limit, reason := 10, policy.RequestTooLarge
		p := exchange.NewPipeline(s)
		if !c.response {
			x.Request.Body, x.Request.Length = body, length
		}
		refusal := p.Request(context.Background(), x)
		out := x.Request.Body
		if c.response && refusal == nil {
			limit, reason = 20, policy.ResponseTooLarge
			x.Response.Body, x.Response.Length = body, length
			refusal = p.Response(context.Background(), x)
			out = x.Response.Body
		}
		if (refusal != nil) != c.early || refusal != nil && (refusal.Reason != reason || body.read > 0) {
			t.Errorf("%+v: %v after %d bytes", c, refusal, body.read)
		}
		if refusal != nil {
			continue
		}
		got, err := io.ReadAll(out)
		var cut *exchange.Refusal
		if errors.As(err, &cut) != c.late || c.late && (cut.Reason != reason || len(got) != limit || body.read != limit+1) {
			t.Errorf("%+v: %v after %d bytes, %d of them read", c, err, len(got), body.read)
		}
		if !c.late && len(got) != c.size {
			t.Errorf("%+v: %d bytes of %d", c, len(got), c.size)
		}
		if o := x.Objection(); (o != nil) != (c.observe && c.size > limit) {
			t.Errorf("%+v: objection %v", c, o)
		}
	}
}

// TestNoBody: what only says how long it would be is not too large.
func TestNoBody(t *testing.T) {
	x := &exchange.Exchange{}
	x.Response.Length = 1 << 40
	if r := New(&config.SizeLimit{Response: 1}).Response(context.Background(), x); r != nil {
		t.Errorf("the answer to a HEAD: %v", r)
	}
}

func BenchmarkSize(b *testing.B) {
	s := New(&config.SizeLimit{Request: 10 << 20, Response: 10 << 20})
	x := &exchange.Exchange{}
	body := exchange.NewBytes(make([]byte, 100))
	b.ReportAllocs()
	for b.Loop() {
		x.Reset()
		x.Request.Body, x.Request.Length = body, 100
		x.Response.Body, x.Response.Length = body, 100
		if s.Request(b.Context(), x) != nil || s.Response(b.Context(), x) != nil {
			b.Fatal("refused")
		}
	}
}
