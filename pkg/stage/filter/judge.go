package filter

import (
	"encoding/binary"
	"errors"
	"fmt"

	"sallyport/pkg/stage/decode"
	"sallyport/pkg/stage/scan"
)

// A judge turns a body as it comes into what may be passed on of it.
type judge interface {
	// feed appends to dst what may be passed on after p; last says that the body
	// ends with it. The error is a *exchange.Refusal.
	feed(dst, p []byte, last bool) ([]byte, error)
	// held gives the bytes that were fed and not passed on, memory what is held for
	// them.
	held() int
	memory() int
	// changed reports whether something was replaced so far.
	changed() bool
}

// plain judges a body that is one text.
type plain struct {
	r       *run
	scanner *scan.Scanner
	// head is how the text begins, n of it are known.
	head [4]byte
	n    int
}

func newPlain(r *run, view scan.View) *plain {
	return &plain{r: r, scanner: r.begin(view, "body", true)}
}

func (j *plain) feed(dst, p []byte, last bool) ([]byte, error) {
	if j.n < len(j.head) {
		if j.n += copy(j.head[j.n:], p); j.n == len(j.head) || last {
			if why := wide(j.head[:j.n]); why != "" {
				j.n = len(j.head)
				if j.r.side.binds && !j.r.observe {
					return dst, j.r.unreadable(why)
				}
				j.r.st.note(j.r.where(0) + " not judged: " + why)
			}
		}
	}
	out, err := j.scanner.Feed(dst, p, last)
	if err != nil {
		return dst, j.r.failed(err)
	}
	return out, nil
}

// wide says of the beginning of a text that it is UTF-16 or UTF-32, which many
// parsers of JSON and XML recognise by it, whatever its type says (RFC 4627
// section 3); "" for any other.
func wide(p []byte) string {
	const why = "it is in UTF-16 or UTF-32"
	text := func(c byte) bool { return c >= ' ' && c < 0x7f || c == '\t' || c == '\n' || c == '\r' }
	opens := func(c byte) bool { return c == '{' || c == '[' || c == '"' || c == '<' }
	switch {
	case len(p) < 2:
		return ""
	case p[0] == 0xff && p[1] == 0xfe, p[0] == 0xfe && p[1] == 0xff:
		return why
	case len(p) < 4:
		return ""
	case p[0] == 0 && p[1] == 0 && (p[2] == 0xfe && p[3] == 0xff || p[2] == 0 && opens(p[3])):
		return why
	case opens(p[0]) && p[1] == 0 && p[2] == 0 && p[3] == 0:
		return why
	case text(p[0]) && p[1] == 0 && text(p[2]) && p[3] == 0, p[0] == 0 && text(p[1]) && p[2] == 0 && text(p[3]):
		return why
	default:
		return ""
	}
}

func (j *plain) held() int     { return j.scanner.Held() }
func (j *plain) memory() int   { return j.scanner.Size() }
func (j *plain) changed() bool { return j.r.changed }

// events judges text/event-stream, one event after the other.
type events struct {
	r    *run
	buf  []byte
	n    int // of events
	seen int // of buf, without the end of an event
	line int // where the line begins in which seen is
	any  bool
}

func (j *events) feed(dst, p []byte, last bool) ([]byte, error) {
	j.buf = append(j.buf, p...)
	from := 0
	for {
		end := j.end(from)
		if end < 0 {
			break
		}
		var err error
		if dst, err = j.event(dst, j.buf[from:end]); err != nil {
			return dst, err
		}
		from, j.seen, j.line = end, end, end
	}
	if last && from < len(j.buf) {
		var err error
		if dst, err = j.event(dst, j.buf[from:]); err != nil {
			return dst, err
		}
		from, j.seen, j.line = len(j.buf), len(j.buf), len(j.buf)
	}
	if from > 0 {
		j.buf = j.buf[:copy(j.buf, j.buf[from:])]
	}
	j.seen -= from
	j.line -= from
	if len(j.buf) > Bound {
		if j.r.side.binds && !j.r.observe {
			return dst, j.r.unreadable(fmt.Sprintf("an event is larger than %d bytes", Bound))
		}
		// What is only reported is judged in parts.
		var err error
		dst, err = j.event(dst, j.buf)
		j.buf, j.seen, j.line = j.buf[:0], 0, 0
		return dst, err
	}
	return dst, nil
}

// end gives the end of the event that begins at from, -1 where it is not whole:
// an empty line, whatever ends its lines.
func (j *events) end(from int) int {
	for i := max(j.seen, from); i < len(j.buf); i++ {
		c := j.buf[i]
		if c != '\n' && c != '\r' {
			continue
		}
		empty := i == j.line
		if c == '\r' && i+1 < len(j.buf) && j.buf[i+1] == '\n' {
			i++
		} else if c == '\n' && i == j.line && i > 0 && i > from && j.buf[i-1] == '\r' {
			// The second half of an end whose first half came alone.
			empty = false
		}
		j.line = i + 1
		if empty {
			return i + 1
		}
	}
	j.seen = len(j.buf)
	return -1
}

// event judges one event.
func (j *events) event(dst, p []byte) ([]byte, error) {
	j.n++
	out, err := j.r.whole(p, scan.Event, "event "+fmt.Sprint(j.n))
	j.any = j.any || j.r.changed
	return append(dst, out...), err
}

func (j *events) held() int     { return len(j.buf) }
func (j *events) memory() int   { return cap(j.buf) + j.r.memory() }
func (j *events) changed() bool { return j.any }

// messages judges the length-prefixed messages of gRPC (gRPC over HTTP2,
// "Length-Prefixed-Message"), one after the other. A match is replaced by as
// many bytes, so that the lengths inside of Protocol Buffers stay right.
type messages struct {
	r *run
	// coding is that of compressed messages; known says that it can be undone.
	coding decode.Coding
	known  bool
	buf    []byte
	text   []byte
	n      int // of messages
	// skip is what is still to come of a message too large to be judged.
	skip int64
	any  bool
}

const (
	// messagePrefix is the length of flag and length.
	messagePrefix = 5
	// messageBound is how large a message may be that is judged: what receivers of
	// gRPC accept by default.
	messageBound = 4 << 20
)

func (j *messages) feed(dst, p []byte, last bool) ([]byte, error) {
	j.buf = append(j.buf, p...)
	from := 0
	for {
		if n := min(j.skip, int64(len(j.buf)-from)); n > 0 {
			dst = append(dst, j.buf[from:from+int(n)]...)
			from += int(n)
			j.skip -= n
		}
		rest := j.buf[from:]
		if len(rest) < messagePrefix {
			break
		}
		size := int64(binary.BigEndian.Uint32(rest[1:]))
		if size > messageBound {
			if err := j.unjudged(fmt.Sprintf("a message is larger than %d bytes", messageBound)); err != nil {
				return dst, err
			}
			j.skip = messagePrefix + size
			continue
		}
		if int64(len(rest)) < messagePrefix+size {
			break
		}
		var err error
		if dst, err = j.message(dst, rest[:messagePrefix+size]); err != nil {
			return dst, err
		}
		from += messagePrefix + int(size)
	}
	if last && from < len(j.buf) {
		if err := j.unjudged("the last message is not whole"); err != nil {
			return dst, err
		}
		dst = append(dst, j.buf[from:]...)
		from = len(j.buf)
	}
	if from > 0 {
		j.buf = j.buf[:copy(j.buf, j.buf[from:])]
	}
	return dst, nil
}

// message judges one message with its prefix.
func (j *messages) message(dst, p []byte) ([]byte, error) {
	j.n++
	place := "message " + fmt.Sprint(j.n)
	text := p[messagePrefix:]
	if p[0]&1 != 0 {
		why := "its grpc-encoding cannot be decoded"
		if j.known {
			var err error
			if j.text, err = decode.All(j.text[:0], text, []decode.Coding{j.coding}, messageBound); err == nil {
				why, text = "", j.text
			} else if errors.Is(err, decode.ErrBomb) {
				why = fmt.Sprintf("it decompresses to more than %d bytes", messageBound)
			}
		}
		if why != "" {
			j.r.place, j.r.at = place, false
			if err := j.unjudged(why); err != nil {
				return dst, err
			}
			return append(dst, p...), nil
		}
	}
	out, err := j.r.whole(text, nil, place)
	if err != nil {
		return dst, err
	}
	if !j.r.changed {
		return append(dst, p...), nil
	}
	j.any = true
	dst = append(dst, p[0]&^1)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(out)))
	return append(dst, out...), nil
}

// unjudged is an error where something binds, else a note.
func (j *messages) unjudged(why string) error {
	if j.r.side.binds && !j.r.observe {
		return j.r.unreadable(why)
	}
	j.r.st.note(j.r.where(0) + " not judged: " + why)
	return nil
}

func (j *messages) held() int     { return len(j.buf) }
func (j *messages) memory() int   { return cap(j.buf) + cap(j.text) + j.r.memory() }
func (j *messages) changed() bool { return j.any }
