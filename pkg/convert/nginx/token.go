package nginx

import (
	"fmt"
	"strings"

	"sallyport/pkg/convert"
)

// maxToken bounds a parameter, as nginx's own buffer does.
const maxToken = 4096

// A kind of token.
type kind uint8

const (
	word kind = iota
	semicolon
	opening
	closing
	end
)

// A token is a word or a mark of the configuration's grammar.
type token struct {
	kind kind
	text string
	// quoted is set where the word stood in quotes.
	quoted bool
	line   int
}

// A scanner splits one file into tokens, as ngx_conf_read_token does.
type scanner struct {
	file string
	data string
	pos  int
	line int
}

func (s *scanner) wrong(line int, format string, args ...any) error {
	return &convert.Mistake{Place: convert.Place{File: s.file, Line: line}, Text: fmt.Sprintf(format, args...)}
}

// next gives the next token.
func (s *scanner) next() (token, error) {
	s.skip()
	t := token{kind: end, line: s.line}
	if s.pos == len(s.data) {
		return t, nil
	}
	switch c := s.data[s.pos]; c {
	case ';', '{', '}':
		s.pos++
		t.kind = map[byte]kind{';': semicolon, '{': opening, '}': closing}[c]
		return t, nil
	case '"', '\'':
		return s.quoted(c)
	default:
		return s.bare()
	}
}

// skip passes over space and comments.
func (s *scanner) skip() {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '\n':
			s.line++
			s.pos++
		case isSpace(c):
			s.pos++
		case c == '#':
			i := strings.IndexByte(s.data[s.pos:], '\n')
			if i < 0 {
				s.pos = len(s.data)
				return
			}
			s.pos += i
		default:
			return
		}
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// quoted reads a word in quotes, which may span lines.
func (s *scanner) quoted(quote byte) (token, error) {
	t := token{kind: word, quoted: true, line: s.line}
	var b strings.Builder
	for s.pos++; ; {
		if s.pos == len(s.data) {
			return t, s.wrong(t.line, "a quote that does not end")
		}
		c := s.data[s.pos]
		if c == quote {
			s.pos++
			break
		}
		if err := s.take(&b, t.line); err != nil {
			return t, err
		}
	}
	t.text = b.String()
	if s.pos < len(s.data) {
		if c := s.data[s.pos]; c == ')' {
			// As in if ($a = "b"): the bracket is a word of its own.
		} else if !isSpace(c) && c != ';' && c != '{' {
			return t, s.wrong(s.line, "unexpected %q behind a quote", c)
		}
	}
	return t, nil
}

// bare reads a word without quotes. Quotes, "}" and "#" inside it are text.
func (s *scanner) bare() (token, error) {
	t := token{kind: word, line: s.line}
	var b strings.Builder
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		if isSpace(c) || c == ';' {
			break
		}
		if c == '{' && !strings.HasSuffix(b.String(), "$") {
			break
		}
		if err := s.take(&b, t.line); err != nil {
			return t, err
		}
	}
	t.text = b.String()
	return t, nil
}

// take moves one character, or an escaped one, into the word.
func (s *scanner) take(b *strings.Builder, line int) error {
	if b.Len() >= maxToken {
		return s.wrong(line, "a parameter of more than %d bytes: a quote or semicolon may be missing", maxToken)
	}
	c := s.data[s.pos]
	s.pos++
	if c == '\n' {
		s.line++
	}
	if c != '\\' || s.pos == len(s.data) {
		b.WriteByte(c)
		return nil
	}
	next := s.data[s.pos]
	s.pos++
	switch next {
	case '"', '\'', '\\':
		b.WriteByte(next)
	case 't':
		b.WriteByte('\t')
	case 'r':
		b.WriteByte('\r')
	case 'n':
		b.WriteByte('\n')
	default:
		if next == '\n' {
			s.line++
		}
		b.WriteByte('\\')
		b.WriteByte(next)
	}
	return nil
}

// foreign passes over a block in another language, whose opening brace has been
// read: Lua, by its strings and comments.
func (s *scanner) foreign(line int) error {
	for depth := 1; depth > 0; {
		if s.pos == len(s.data) {
			return s.wrong(line, "a block that does not end")
		}
		rest := s.data[s.pos:]
		switch c := rest[0]; {
		case strings.HasPrefix(rest, "--[["):
			s.until("]]")
		case strings.HasPrefix(rest, "--"):
			s.until("\n")
		case strings.HasPrefix(rest, "[["):
			s.until("]]")
		case c == '"' || c == '\'':
			s.pos++
			for s.pos < len(s.data) && s.data[s.pos] != c {
				if s.data[s.pos] == '\\' && s.pos+1 < len(s.data) {
					s.step()
				}
				s.step()
			}
			s.pos = min(s.pos+1, len(s.data))
		case c == '{':
			depth++
			s.pos++
		case c == '}':
			depth--
			s.pos++
		default:
			s.step()
		}
	}
	return nil
}

// step passes over one byte.
func (s *scanner) step() {
	if s.data[s.pos] == '\n' {
		s.line++
	}
	s.pos++
}

// until passes over everything up to and with the mark.
func (s *scanner) until(mark string) {
	i := strings.Index(s.data[s.pos:], mark)
	if i < 0 {
		s.line += strings.Count(s.data[s.pos:], "\n")
		s.pos = len(s.data)
		return
	}
	s.line += strings.Count(s.data[s.pos:s.pos+i+len(mark)], "\n")
	s.pos += i + len(mark)
}
