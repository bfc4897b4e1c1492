// Package decode undoes content codings of HTTP (RFC 9110 section 8.4) as a
// stream, within bounds: what a few bytes may become is decided here and not by
// their sender.
package decode

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"sallyport/pkg/exchange"
)

// A Coding is a content coding that can be undone.
type Coding uint8

// The codings (RFC 9110 section 8.4.1, RFC 7932, RFC 8878).
const (
	Gzip Coding = iota + 1
	Deflate
	Brotli
	Zstd
)

const (
	// maxCodings bounds how many codings lie on one another.
	maxCodings = 4
	// maxWindow is the window that a decoder of zstd must have (RFC 9659) and the
	// most that one gets.
	maxWindow = 8 << 20
	// Ratio is how many times its size a body may become, once it has become more
	// than RatioFree bytes. Deflate reaches 1,032; text is seldom above 20.
	Ratio, RatioFree = 200, 1 << 20
	// Max bounds what one body may become, in bytes, unless it is a stream.
	Max = 1 << 30
)

var (
	// ErrUnknown is a coding that cannot be undone, or too many of them.
	ErrUnknown = errors.New("a content coding that cannot be decoded")
	// ErrBomb is a body that becomes more than the bounds allow.
	ErrBomb = errors.New("the body decompresses to far more than it is")
	// ErrCorrupt is a body that is not in its coding, or goes on behind its end.
	ErrCorrupt = errors.New("the body is not what its Content-Encoding says")
)

// Named gives the coding of that name; ok is false where it cannot be undone.
// The zero coding is identity.
func Named(name string) (c Coding, ok bool) {
	switch strings.ToLower(name) {
	case "gzip", "x-gzip":
		return Gzip, true
	case "deflate":
		return Deflate, true
	case "br":
		return Brotli, true
	case "zstd":
		return Zstd, true
	case "identity", "":
		return 0, true
	default:
		return 0, false
	}
}

// Codings gives the codings of a message in the order in which they were
// applied; ErrUnknown where one of them cannot be undone.
func Codings(h *exchange.Header) ([]Coding, error) {
	var list []Coding
	for v := range h.Values("Content-Encoding") {
		for name := range strings.SplitSeq(v, ",") {
			c, ok := Named(strings.Trim(name, " \t"))
			if !ok {
				return nil, ErrUnknown
			}
			if c == 0 {
				continue
			}
			if len(list) == maxCodings {
				return nil, ErrUnknown
			}
			list = append(list, c)
		}
	}
	return list, nil
}

// Accept gives an Accept-Encoding without what cannot be undone. It keeps the
// order and the weights.
func Accept(value string) string {
	var kept []string
	for item := range strings.SplitSeq(value, ",") {
		item = strings.Trim(item, " \t")
		name, _, _ := strings.Cut(item, ";")
		name = strings.Trim(name, " \t")
		if _, ok := Named(name); ok && name != "" {
			kept = append(kept, item)
		}
	}
	if len(kept) == 0 {
		return "identity"
	}
	return strings.Join(kept, ", ")
}

// A Reader gives a decoded body.
type Reader struct {
	raw     count
	codings []Coding
	max     int64
	layers  []layer
	out     int64
	err     error
}

// A layer is one coding that is being undone.
type layer struct {
	in    *bufio.Reader
	out   io.Reader
	close func()
	// window is what the decoder remembers at most, of what it gave.
	window int64
	grown  *grown
}

// grown counts what a layer becomes: the one behind it may make nothing of it.
type grown struct {
	r   io.Reader
	raw *count
	n   int64
	// bomb says that it became too much: a decoder may hide that.
	bomb bool
}

func (g *grown) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	if g.n += int64(n); g.n > RatioFree && g.n > Ratio*g.raw.n || g.n > Max {
		g.bomb = true
		return 0, ErrBomb
	}
	return n, err
}

// bomb reports whether a layer became too much.
func (r *Reader) bomb() bool {
	for i := range r.layers {
		if g := r.layers[i].grown; g != nil && g.bomb {
			return true
		}
	}
	return false
}

// layerCost is what a layer holds beside its window, about.
const layerCost = 128 << 10

// Memory gives the bytes that the decoders hold, about.
func (r *Reader) Memory() int {
	n := int64(0)
	for i := range r.layers {
		l := &r.layers[i]
		window := l.window
		if l.close == nil {
			// It grows as it is filled.
			made := r.out
			if l.grown != nil {
				made = l.grown.n
			}
			window = min(window, 2*made)
		}
		n += layerCost + window
	}
	return int(n)
}

// count counts what is read.
type count struct {
	r io.Reader
	n int64
	// err is why it ended: a decoder wraps or hides that.
	err error
}

func (c *count) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}

// NewReader gives a reader of src without its codings. max bounds what it may
// give, 0 does not. It reads nothing yet.
func NewReader(src io.Reader, codings []Coding, max int64) *Reader {
	return &Reader{raw: count{r: src}, codings: codings, max: max}
}

// Raw gives the bytes that were read of the source.
func (r *Reader) Raw() int64 { return r.raw.n }

// Decoded gives the bytes that were made of them.
func (r *Reader) Decoded() int64 { return r.out }

// Read gives decoded bytes as soon as there are some. An error is that of the
// source, ErrBomb or ErrCorrupt; io.EOF only where source and codings end
// together.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil || len(p) == 0 {
		return 0, r.err
	}
	n, err := r.read(p)
	r.out += int64(n)
	switch {
	case r.out > RatioFree && r.out > Ratio*r.raw.n, r.max > 0 && r.out > r.max:
		n, err = 0, ErrBomb
	case err == nil || err == io.EOF:
	case r.bomb():
		n, err = 0, ErrBomb
	case r.raw.err != nil && r.raw.err != io.EOF:
		err = r.raw.err
	default:
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	r.err = err
	if err != nil {
		r.Close()
	}
	return n, err
}

func (r *Reader) read(p []byte) (int, error) {
	if r.layers == nil {
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	for {
		n, err := r.layers[len(r.layers)-1].out.Read(p)
		if err == io.EOF {
			err = r.ended()
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// ended gives io.EOF where every layer's input has ended with its output.
func (r *Reader) ended() error {
	for i := range r.layers {
		if _, err := r.layers[i].in.Peek(1); err == nil {
			return errors.New("bytes behind its end")
		} else if err != io.EOF {
			return err
		}
	}
	return io.EOF
}

// open makes the decoders. An empty body needs none.
func (r *Reader) open() error {
	var src io.Reader = &r.raw
	r.layers = make([]layer, 0, len(r.codings)+1)
	for i := len(r.codings) - 1; i >= 0; i-- {
		l := layer{in: bufio.NewReader(src)}
		if _, err := l.in.Peek(1); err == io.EOF && r.raw.n == 0 {
			return io.EOF
		}
		if err := l.decode(r.codings[i]); err != nil {
			return err
		}
		if i > 0 {
			l.grown = &grown{r: l.out, raw: &r.raw}
			l.out = l.grown
		}
		r.layers = append(r.layers, l)
		src = l.out
	}
	if len(r.codings) == 0 {
		in := bufio.NewReader(src)
		r.layers = append(r.layers, layer{in: in, out: in})
	}
	return nil
}

func (l *layer) decode(c Coding) error {
	switch c {
	case Gzip:
		z, err := gzip.NewReader(l.in)
		if err != nil {
			return err
		}
		l.out = z
	case Deflate:
		// RFC 9110 means zlib; some send what zlib wraps.
		if p, err := l.in.Peek(2); err == nil && p[0]&15 == 8 && (int(p[0])<<8|int(p[1]))%31 == 0 {
			z, err := zlib.NewReader(l.in)
			if err != nil {
				return err
			}
			l.out = z
			return nil
		}
		l.out = flate.NewReader(l.in)
	case Brotli:
		l.out, l.window = brotli.NewReader(l.in), 32<<20
	case Zstd:
		l.window = l.zstdWindow()
		z, err := zstd.NewReader(l.in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(uint64(l.window)))
		if err != nil {
			return err
		}
		l.out, l.close = z, z.Close
	default:
		return ErrUnknown
	}
	return nil
}

// minWindow is the least that a decoder of zstd is given.
const minWindow = 256 << 10

// zstdWindow gives the window of the first frame, which those behind it must
// not exceed: its decoder takes the memory at once.
func (l *layer) zstdWindow() int64 {
	for n := 5; n <= zstd.HeaderMaxSize; n++ {
		p, err := l.in.Peek(n)
		if err != nil {
			return minWindow // it is shorter than any header
		}
		var h zstd.Header
		if err := h.Decode(p); errors.Is(err, io.ErrUnexpectedEOF) {
			continue
		} else if err != nil || h.Skippable {
			return maxWindow
		}
		window := h.WindowSize
		if h.SingleSegment {
			window = h.FrameContentSize
		}
		return int64(max(min(window, maxWindow), minWindow))
	}
	return maxWindow
}

// Close gives back what the decoders hold. Read does it at the end and after an
// error.
func (r *Reader) Close() {
	for i := range r.layers {
		if c := r.layers[i].close; c != nil {
			c()
			r.layers[i].close = nil
		}
	}
	if r.err == nil {
		r.err = io.ErrClosedPipe
	}
}

// All appends the whole of p, decoded, to dst; ErrBomb where it becomes more
// than bound bytes.
func All(dst, p []byte, codings []Coding, bound int) ([]byte, error) {
	r := NewReader(bytes.NewReader(p), codings, int64(bound))
	defer r.Close()
	for {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}
