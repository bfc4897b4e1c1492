package filter

import (
	"cmp"
	"errors"
	"io"
	"mime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"sallyport/pkg/exchange"
	"sallyport/pkg/policy"
	"sallyport/pkg/stage/decode"
	"sallyport/pkg/stage/scan"
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

// Rewind implements exchange.Body: where all of it is held.
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

// A replay is a body of which the beginning was read already: it stands in
// data, and src goes on behind it.
type replay struct {
	exchange.Bytes
	src exchange.Body
	// whole says that data is all.
	whole bool
	moved bool // something of src was read
}

func newReplay(data []byte, src exchange.Body, whole bool) *replay {
	return &replay{Bytes: *exchange.NewBytes(data), src: src, whole: whole}
}

// Read implements exchange.Body.
func (b *replay) Read(p []byte) (int, error) {
	n, err := b.Bytes.Read(p)
	if err == io.EOF && !b.whole {
		b.moved = true
		return b.src.Read(p)
	}
	return n, err
}

// Buffered implements exchange.Body.
func (b *replay) Buffered() ([]byte, bool) {
	p, _ := b.Bytes.Buffered()
	return p, b.whole
}

// Rewind implements exchange.Body.
func (b *replay) Rewind() bool { return !b.moved && b.Bytes.Rewind() }

// Interrupt implements exchange.Body: a read of memory never waits.
func (b *replay) Interrupt() {
	if !b.whole {
		b.src.Interrupt()
	}
}

// Complete implements exchange.Body.
func (b *replay) Complete() bool { return b.src.Complete() }

// Transferred implements exchange.Body: what came off the wire.
func (b *replay) Transferred() int64 { return b.src.Transferred() }

// A kind is how a body is to be read.
type kind struct {
	// events and messages are streams of pieces that are judged one by one;
	// stream is one that nobody may hold back.
	events, messages, stream bool
	view                     scan.View
	codings                  []decode.Coding
	// message is the coding of compressed messages.
	message decode.Coding
	known   bool
	// unreadable says why it cannot be judged.
	unreadable string
}

// kindOf looks at a header.
func kindOf(h *exchange.Header) kind {
	k := kind{view: scan.JSON}
	value, types := "", 0
	for v := range h.Values("Content-Type") {
		value = strings.ToLower(v)
		types++
	}
	media, parameters, _ := strings.Cut(value, ";")
	switch media = strings.Trim(media, " \t"); {
	case types > 1:
		k.unreadable = "it has more than one Content-Type"
	case strings.HasPrefix(media, "application/grpc-web-text"):
		k.unreadable = "its messages of gRPC are in base64"
	case media == "text/event-stream":
		k.events, k.stream = true, true
	case media == "application/grpc", strings.HasPrefix(media, "application/grpc+"),
		strings.HasPrefix(media, "application/grpc-web"):
		k.messages, k.stream = true, true
		k.message, k.known = decode.Named(h.Get("grpc-encoding"))
		k.known = k.known && k.message != 0
	case media == "application/x-www-form-urlencoded":
		k.view = form
	case media == "application/x-ndjson", media == "application/ndjson", media == "application/jsonl", media == "application/json-seq",
		media == "application/stream+json", media == "application/connect+json", media == "application/connect+proto",
		media == "multipart/x-mixed-replace":
		k.stream = true
	}
	if !readable(value, parameters) {
		k.unreadable = "its charset is not read"
	}
	var err error
	if k.codings, err = decode.Codings(h); err != nil {
		k.unreadable = "it has " + err.Error()
	}
	return k
}

// readable reports whether ASCII stands for itself in the charset that a
// Content-Type, in lower case, names (the labels of the Encoding Standard and
// their usual misspellings). What nobody can read for certain is not readable.
func readable(contentType, parameters string) bool {
	if !strings.Contains(parameters, "charset") {
		return true
	}
	_, all, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	charset := strings.NewReplacer("_", "-", " ", "").Replace(all["charset"])
	for _, name := range [...]string{
		"", "utf-8", "utf8", "us-ascii", "ascii", "latin1", "latin-1", "l1", "gbk", "gb2312", "gb18030", "big5", "big5-hkscs", "euc-jp", "euc-kr",
		"shift-jis", "shiftjis", "sjis", "ms932", "windows-31j", "ks-c-5601-1987", "tis-620", "macintosh", "binary",
	} {
		if charset == name {
			return true
		}
	}
	for _, prefix := range [...]string{"iso-8859-", "iso8859-", "windows-125", "windows-874", "cp125", "koi8-"} {
		if strings.HasPrefix(charset, prefix) {
			return true
		}
	}
	return false
}

// form reads a form, and JSON that is sent as one, which many servers take.
func form(units []scan.Unit, p []byte, last bool) ([]scan.Unit, int) {
	known := len(units)
	units, n := scan.Form(units, p, last)
	units, m := scan.JSON(units, p, last)
	n = min(n, m)
	fresh := units[known:]
	slices.SortFunc(fresh, func(a, b scan.Unit) int { return cmp.Compare(a.Pos, b.Pos) })
	// In the escape of an escape the outer one counts; what is not settled is read
	// again.
	end := int64(0)
	fresh = slices.DeleteFunc(fresh, func(u scan.Unit) bool {
		if u.Pos < end || u.Pos >= int64(n) {
			return true
		}
		end = u.Pos + int64(u.Len)
		return false
	})
	units = units[:known+len(fresh)]
	return units, n
}

// judge makes the judge for a body of the kind.
func (k *kind) judge(r *run) judge {
	r.place = "body"
	switch {
	case k.events:
		return &events{r: r}
	case k.messages:
		r.sized = true
		return &messages{r: r, coding: k.message, known: k.known}
	default:
		return newPlain(r, k.view)
	}
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

// watch lets a body pass that is only looked at.
func (s *Stage) watch(x *exchange.Exchange, d *side, k *kind, src exchange.Body, trailer *exchange.Header) exchange.Body {
	r := s.run(x, d)
	r.st.runs = append(r.st.runs, r)
	if k.unreadable != "" {
		r.place = "body"
		r.st.note(r.where(0) + " not judged: " + k.unreadable)
		return exchange.Watch(src, &onlooker{r: r, trailer: trailer})
	}
	o := &onlooker{r: r, judge: k.judge(r), trailer: trailer, out: r.passed, share: share{m: s.o.Memory, workload: x.Subject.Workload}}
	if len(k.codings) > 0 {
		o.f = follow(o.judge, k, r, o.share)
		o.judge = nil
		r.st.followed = append(r.st.followed, o.f)
	} else {
		r.st.onlookers = append(r.st.onlookers, o)
	}
	return exchange.Watch(src, o)
}

// An onlooker looks at a body that passes as it is.
type onlooker struct {
	r       *run
	judge   judge // nil: nobody can
	f       *follower
	trailer *exchange.Header
	out     []byte
	share   share
}

// textNoMemory is what is noted of a body that is only looked at.
const textNoMemory = "body not judged to its end: there is no memory for more bodies"

// Watch implements exchange.Watcher.
func (o *onlooker) Watch(p []byte, last bool) error {
	var err error
	switch {
	case o.f != nil:
		o.f.write(p, last)
		if refusal := o.f.refusal.Load(); refusal != nil {
			err = refusal
		}
	case o.judge != nil:
		o.out, err = o.judge.feed(o.out[:0], p, last)
		if !o.share.set(int64(o.judge.memory())) {
			o.r.st.note(textNoMemory)
			o.judge, o.out = nil, nil
			o.share.set(0)
		}
	}
	if err == nil && last {
		if refusal := o.r.fields(o.trailer, true); refusal != nil {
			err = refusal
		}
	}
	return err
}

// A follower decodes a body beside its way, for somebody who only looks: the
// body itself never waits for more than that what it brought is read.
type follower struct {
	to   *io.PipeWriter
	done chan struct{}
	// refusal is of a body that decompresses beyond the rule's size_limit.
	refusal atomic.Pointer[exchange.Refusal]
}

func follow(j judge, k *kind, r *run, held share) *follower {
	from, to := io.Pipe()
	f := &follower{to: to, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		// What follows is not read by anybody.
		defer func() { _, _ = io.Copy(io.Discard, from) }()
		defer held.set(0)
		limit := int64(decode.Max)
		if k.stream {
			limit = 0
		}
		dec := decode.NewReader(from, k.codings, limit)
		defer dec.Close()
		in, out := make([]byte, step), []byte(nil)
		for {
			if !held.set(int64(dec.Memory() + j.memory())) {
				r.st.note(textNoMemory)
				return
			}
			n, err := dec.Read(in)
			if n > 0 || err == io.EOF {
				// Nobody refuses here.
				out, _ = j.feed(out[:0], in[:n], err == io.EOF)
				if refusal := size.Decoded(r.x, r.side.response, dec.Decoded()); refusal != nil {
					f.refusal.Store(refusal)
				}
			}
			if err == nil {
				continue
			}
			if errors.Is(err, decode.ErrBomb) || errors.Is(err, decode.ErrCorrupt) {
				r.place = "body"
				r.st.note(r.where(0) + " not judged to its end: " + cause(err))
			}
			return
		}
	}()
	return f
}

// write hands on what came.
func (f *follower) write(p []byte, last bool) {
	if len(p) > 0 {
		_, _ = f.to.Write(p)
	}
	if last {
		_ = f.to.Close()
		<-f.done
	}
}

// stop ends it, also where the body has not ended.
func (f *follower) stop() {
	_ = f.to.CloseWithError(io.ErrUnexpectedEOF)
	<-f.done
}
