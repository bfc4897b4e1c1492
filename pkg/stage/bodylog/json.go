package bodylog

import (
	"bytes"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport/pkg/audit"
	"sallyport/pkg/config"
)

// maxDepth bounds how deep JSON is followed; what lies deeper is left out.
const maxDepth = 200

// A jsonRedactor replaces the values at its paths. It reads tokens, so that a
// text that was cut is redacted up to the cut; and from the first byte that it
// does not understand on it gives nothing, because there it cannot tell what is
// where.
type jsonRedactor struct {
	paths []config.JSONPath
	// src is what is read, from at on; dst what was written.
	src []byte
	at  int
	dst []byte
	// states are, for each depth and path, the steps that have been gone: bit i
	// says that i steps led here.
	states []uint64
	name   []byte
}

const redactedValue = `"` + audit.Redacted + `"`

// redact appends src redacted: one value, or several with white space between
// them, as NDJSON has. It reports whether it understood all of it.
func (j *jsonRedactor) redact(dst, src []byte) (out []byte, whole bool) {
	j.src, j.at, j.dst = src, 0, dst
	defer func() { j.src, j.dst = nil, nil }()
	if rest, found := bytes.CutPrefix(src, []byte("\ufeff")); found {
		j.src = rest
	}
	for {
		// RFC 7464 puts a record separator before each text.
		for j.at < len(j.src) && (space(j.src[j.at]) || j.src[j.at] == 0x1e) {
			j.dst = append(j.dst, j.src[j.at])
			j.at++
		}
		if j.at == len(j.src) {
			return j.dst, true
		}
		j.states = j.states[:0]
		for range j.paths {
			j.states = append(j.states, 1)
		}
		if !j.value(0, j.src[j.at] == '[') {
			return j.dst, false
		}
	}
}

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// skipSpace passes white space on and reports whether something follows.
func (j *jsonRedactor) skipSpace() bool {
	for j.at < len(j.src) && space(j.src[j.at]) {
		j.dst = append(j.dst, j.src[j.at])
		j.at++
	}
	return j.at < len(j.src)
}

// value reads a value at a depth; false is the end of what is understood. Of a
// batch (JSON-RPC 2.0 section 6) each member is a text of its own as well.
func (j *jsonRedactor) value(depth int, batch bool) bool {
	if depth > maxDepth || j.at == len(j.src) {
		return false
	}
	if j.named(depth) {
		j.dst = append(j.dst, redactedValue...)
		return j.skip()
	}
	switch c := j.src[j.at]; {
	case c == '{':
		return j.object(depth)
	case c == '[':
		return j.array(depth, batch)
	case c == '"':
		end, closed := stringEnd(j.src[j.at:])
		j.dst = append(j.dst, j.src[j.at:j.at+end]...)
		j.at += end
		return closed
	case c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z':
		for j.at < len(j.src) && literal(j.src[j.at]) {
			j.dst = append(j.dst, j.src[j.at])
			j.at++
		}
		return true
	default:
		return false
	}
}

// literal is a character of a number, true, false or null.
func literal(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c == 'E' || c == '-' || c == '+' || c == '.'
}

// named reports whether a path leads here.
func (j *jsonRedactor) named(depth int) bool {
	for i, p := range j.paths {
		if j.states[depth*len(j.paths)+i]>>len(p)&1 != 0 {
			return true
		}
	}
	return false
}

// enter makes the states of depth+1: those of a member of that name, or of an
// element where name is nil.
func (j *jsonRedactor) enter(depth int, name []byte, index int, root bool) {
	n := len(j.paths)
	j.states = j.states[:(depth+1)*n]
	for i, p := range j.paths {
		state, next := j.states[depth*n+i], uint64(0)
		for at := range p {
			if state>>at&1 == 0 {
				continue
			}
			s := &p[at]
			if s.Any || name == nil && s.Element && s.Index == index ||
				name != nil && !s.Element && len(s.Name) > 0 && strings.EqualFold(s.Name, string(name)) {
				next |= 1 << (at + 1)
			}
			if s.Descend {
				next |= 1 << at
			}
		}
		if root {
			next |= 1
		}
		j.states = append(j.states, next)
	}
}

func (j *jsonRedactor) object(depth int) bool {
	j.take()
	for first := true; ; first = false {
		if !j.skipSpace() {
			return false
		}
		if j.src[j.at] == '}' {
			j.take()
			return true
		}
		if !first {
			if j.src[j.at] != ',' {
				return false
			}
			j.take()
			if !j.skipSpace() {
				return false
			}
		}
		if j.src[j.at] != '"' {
			return false
		}
		end, closed := stringEnd(j.src[j.at:])
		if !closed {
			return false
		}
		raw := j.src[j.at : j.at+end]
		var err error
		if j.name, err = jsontext.AppendUnquote(j.name[:0], raw); err != nil {
			return false
		}
		j.enter(depth, j.name, 0, false)
		j.dst = append(j.dst, raw...)
		j.at += end
		if !j.skipSpace() || j.src[j.at] != ':' {
			return false
		}
		j.take()
		if !j.skipSpace() || !j.value(depth+1, false) {
			return false
		}
	}
}

func (j *jsonRedactor) array(depth int, batch bool) bool {
	j.take()
	for index := 0; ; index++ {
		if !j.skipSpace() {
			return false
		}
		if j.src[j.at] == ']' {
			j.take()
			return true
		}
		if index > 0 {
			if j.src[j.at] != ',' {
				return false
			}
			j.take()
			if !j.skipSpace() {
				return false
			}
		}
		j.enter(depth, nil, index, batch)
		if !j.value(depth+1, false) {
			return false
		}
	}
}

// take passes one byte on.
func (j *jsonRedactor) take() {
	j.dst = append(j.dst, j.src[j.at])
	j.at++
}

// skip goes behind a value without passing it on; false where it has no end or
// is no JSON.
func (j *jsonRedactor) skip() bool {
	kept := len(j.dst)
	paths, states := j.paths, j.states
	j.paths, j.states = nil, nil
	whole := j.value(0, false)
	j.paths, j.states = paths, states
	j.dst = j.dst[:kept]
	return whole
}

// stringEnd gives the length of the string with which b begins, and whether it
// is closed.
func stringEnd(b []byte) (n int, closed bool) {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1, true
		}
	}
	return len(b), false
}
