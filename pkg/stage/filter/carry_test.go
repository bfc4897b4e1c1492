package filter

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/stage/secrets"
)

// A pieceBody is a body that comes in pieces, each with one Read.
type pieceBody struct {
	pieces  [][]byte
	at      int
	off     int
	n       int64
	trailer func()
	err     error // instead of the clean end
}

func (b *pieceBody) Read(p []byte) (int, error) {
	if b.at == len(b.pieces) {
		if b.err != nil {
			return 0, b.err
		}
		if b.trailer != nil {
			b.trailer()
			b.trailer = nil
		}
		return 0, io.EOF
	}
	n := copy(p, b.pieces[b.at][b.off:])
	b.Discard(n)
	return n, nil
}

func (b *pieceBody) Buffered() ([]byte, bool) { return nil, false }

func (b *pieceBody) Discard(n int) {
	b.n += int64(n)
	if b.off += n; b.off == len(b.pieces[b.at]) {
		b.at, b.off = b.at+1, 0
	}
}

func (b *pieceBody) Rewind() bool { return false }

func (b *pieceBody) Interrupt() {}

func (b *pieceBody) Complete() bool { return b.at == len(b.pieces) }

func (b *pieceBody) Transferred() int64 { return b.n }

// A message is one request or response of a test.
type message struct {
	contentType, encoding string
	body                  []byte
	length                bool // declared
	header                map[string]string
	path, query, upgrade  string
	trailer               string
	expect, observe       bool
	status                int
}

// A result is what became of it.
type result struct {
	refusal   *exchange.Refusal // before anything was passed on
	cut       *exchange.Refusal // in the body
	err       error
	body      string
	length    int64
	notes     string
	objection *exchange.Refusal
	x         *exchange.Exchange
}

// refused gives the refusal wherever it came.
func (r *result) refused() *exchange.Refusal {
	if r.refusal != nil {
		return r.refusal
	}
	return r.cut
}

func newStage(t testing.TB, found config.FilterAction, filters ...config.ContentFilter) *Stage {
	t.Helper()
	set, err := secrets.New()
	if err != nil {
		t.Fatal(err)
	}
	for i := range filters {
		if filters[i].Status == 0 {
			filters[i].Status = 400
		}
	}
	s, err := New(Options{Memory: NewMemory(DefaultMemory), Secrets: set}, filters, found)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bad is the filter of most tests.
func bad(in config.FilterSide, action config.FilterAction) config.ContentFilter {
	return config.ContentFilter{Name: "bad", Pattern: `bad[-\s]word\d*`, In: in, Action: action}
}

// carry runs a message through the stages, its body in the pieces given.
func carry(t testing.TB, response bool, m message, pieces [][]byte, stages ...exchange.Stage) *result {
	t.Helper()
	x := &exchange.Exchange{}
	x.Subject = exchange.Subject{Rule: "r", Observe: m.observe}
	req, resp := &x.Request, &x.Response
	req.Method, req.Path, req.Query, req.HasQuery = "POST", "/p", m.query, m.query != ""
	if m.path != "" {
		req.Path = m.path
	}
	req.Upgrade, req.ExpectContinue = m.upgrade, m.expect
	h, trailer := &req.Header, &req.Trailer
	if response {
		h, trailer = &resp.Header, &resp.Trailer
	}
	if m.contentType != "" {
		h.Add("Content-Type", m.contentType)
	}
	if m.encoding != "" {
		h.Add("Content-Encoding", m.encoding)
	}
	for name, value := range m.header {
		h.Add(name, value)
	}
	n := int64(exchange.UnknownLength)
	if m.length {
		n = int64(len(m.body))
		h.Add("Content-Length", fmt.Sprint(n))
	}
	if pieces == nil {
		pieces = [][]byte{m.body}
	}
	var src exchange.Body = &pieceBody{pieces: pieces, trailer: func() {
		if m.trailer != "" {
			trailer.Add("X-Trailer", m.trailer)
		}
	}}
	p := exchange.NewPipeline(stages...)
	out := &result{x: x}
	if !response {
		if m.body != nil {
			req.Body, req.Length = src, n
		}
		if out.refusal = p.Request(context.Background(), x); out.refusal == nil && req.Body != nil {
			out.read(req.Body)
		}
		out.length = req.Length
	} else {
		if out.refusal = p.Request(context.Background(), x); out.refusal == nil {
			resp.Status = 200
			if m.status != 0 {
				resp.Status = m.status
			}
			if m.body != nil {
				resp.Body, resp.Length = src, n
			}
			if out.refusal = p.Response(context.Background(), x); out.refusal == nil && resp.Body != nil {
				out.read(resp.Body)
			}
			out.length = resp.Length
		}
	}
	p.End(x)
	out.notes, out.objection = x.Record.Message, x.Objection()
	for _, s := range stages {
		if f, ok := s.(*Stage); ok && f.o.Memory.Used() != 0 {
			t.Errorf("%d bytes are still held", f.o.Memory.Used())
		}
	}
	return out
}

func (r *result) read(b exchange.Body) {
	p, err := io.ReadAll(b)
	r.body = string(p)
	if !errors.As(err, &r.cut) {
		r.err = err
	}
}

func zip(p []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(p)
	_ = z.Close()
	return b.Bytes()
}

// grpc frames messages; compressed ones carry their flag.
func grpc(compressed bool, messages ...string) []byte {
	var b []byte
	for _, m := range messages {
		p, flag := []byte(m), byte(0)
		if compressed {
			p, flag = zip(p), 1
		}
		b = append(b, flag)
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

// splits gives the body whole, byte by byte, and cut in two at every place, or
// where there are too many at some.
func splits(p []byte) [][][]byte {
	all := [][][]byte{{p}}
	var single [][]byte
	for i := range p {
		single = append(single, p[i:i+1])
	}
	all = append(all, single)
	for i := 1; i < len(p); i += 1 + len(p)/200 {
		all = append(all, [][]byte{p[:i], p[i:]})
	}
	return all
}

// newStageOnce gives a stage that looks on both sides.
func newStageOnce(t testing.TB, action config.FilterAction) *Stage {
	if stages[action] == nil {
		stages[action] = newStage(t, "", bad(config.InBoth, action))
	}
	return stages[action]
}
