package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// maxAnswer bounds the head of a proxy's answer, in bytes.
	maxAnswer = 16 << 10
	// maxInterim bounds the 1xx answers before the final one.
	maxInterim = 8
	// maxPhrase and maxSchemes bound what is told of an answer.
	maxPhrase  = 80
	maxSchemes = 8
)

// errNoAnswer is what a proxy sent that cannot be an answer to CONNECT.
var errNoAnswer = errors.New("malformed answer")

// A connectAnswer is the head of a proxy's answer to CONNECT, as far as anyone
// needs it.
type connectAnswer struct {
	status int
	// phrase is printable ASCII.
	phrase string
	// schemes are the authentication schemes that it offers.
	schemes []string
}

// readConnectAnswer reads the final answer and not a byte beyond its head: even
// a 2xx with Content-Length has no body (RFC 9110 section 9.3.6). Without peek,
// which looks ahead on r, it reads byte by byte. The error wraps errNoAnswer for
// what is no answer, else it is of reading.
func readConnectAnswer(r io.Reader, peek func([]byte) (int, error)) (connectAnswer, error) {
	for range maxInterim {
		head, err := readHead(r, peek)
		if err != nil {
			return connectAnswer{}, err
		}
		a, err := parseConnectAnswer(head)
		// 101 is no interim answer, and nobody asked for it.
		if err != nil || a.status/100 != 1 || a.status == 101 {
			return a, err
		}
	}
	return connectAnswer{}, fmt.Errorf("%w: more than %d interim answers", errNoAnswer, maxInterim)
}

// readHead reads up to and with the empty line.
func readHead(r io.Reader, peek func([]byte) (int, error)) ([]byte, error) {
	head := make([]byte, 0, 1<<10)
	var ahead [1 << 10]byte
	for {
		n := 1
		if peek != nil {
			var err error
			if n, err = peek(ahead[:]); err != nil {
				return nil, cutHead(head, err)
			}
			if end := headEnd(append(head, ahead[:n]...), len(head)); end > 0 {
				n = end - len(head)
			}
		}
		if _, err := io.ReadFull(r, ahead[:n]); err != nil {
			return nil, cutHead(head, err)
		}
		head = append(head, ahead[:n]...)
		switch {
		case len(head) > maxAnswer:
			return nil, fmt.Errorf("%w: a head of more than %d bytes", errNoAnswer, maxAnswer)
		case headEnd(head, len(head)-n) > 0:
			return head, nil
		case !bytes.HasPrefix(head, []byte("HTTP/1.")[:min(len(head), len("HTTP/1."))]):
			// At once, so that nobody waits for what will never be a head.
			return nil, fmt.Errorf("%w: a status line that begins with %q", errNoAnswer, head[:min(len(head), 16)])
		}
	}
}

// cutHead says that a head ended in its middle.
func cutHead(head []byte, err error) error {
	if err == io.EOF && len(head) > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// headEnd gives where a head ends whose first from bytes have been looked at; 0
// where it does not. A line may end with LF alone (RFC 9112 section 2.2).
func headEnd(b []byte, from int) int {
	for i := max(0, from-3); i < len(b); i++ {
		if b[i] != '\n' {
			continue
		}
		if rest := b[i+1:]; len(rest) > 0 && rest[0] == '\n' {
			return i + 2
		} else if len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n' {
			return i + 3
		}
	}
	return 0
}

// parseConnectAnswer reads a whole head (RFC 9112 section 4).
func parseConnectAnswer(head []byte) (a connectAnswer, err error) {
	line, rest, _ := strings.Cut(string(head), "\n")
	line = strings.TrimSuffix(line, "\r")
	bad := func(what string) (connectAnswer, error) {
		return connectAnswer{}, fmt.Errorf("%w: %s", errNoAnswer, what)
	}
	version, after, _ := strings.Cut(line, " ")
	if len(version) != len("HTTP/1.1") || !strings.HasPrefix(version, "HTTP/1.") || version[7] < '0' || version[7] > '9' {
		return bad(fmt.Sprintf("a status line that begins with %q", clip(line, 16)))
	}
	code, phrase, _ := strings.Cut(after, " ")
	if len(code) != 3 || strings.Trim(code, "0123456789") != "" || code[0] < '1' || code[0] > '5' {
		return bad(fmt.Sprintf("the status %q", clip(code, 16)))
	}
	for i := range code {
		a.status = 10*a.status + int(code[i]-'0')
	}
	a.phrase = printable(phrase, maxPhrase)
	for line := range strings.Lines(rest) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		name, value, found := strings.Cut(line, ":")
		if !found || name == "" || strings.ContainsAny(name, " \t\x00") {
			return bad(fmt.Sprintf("the header line %q", clip(line, 32)))
		}
		if !strings.EqualFold(name, "Proxy-Authenticate") || len(a.schemes) == maxSchemes {
			continue
		}
		// Of several challenges in one line the first is enough to tell of.
		scheme, _, _ := strings.Cut(strings.TrimSpace(value), " ")
		if scheme = printable(strings.TrimSuffix(scheme, ","), 20); scheme != "" {
			a.schemes = append(a.schemes, scheme)
		}
	}
	return a, nil
}

func clip(s string, longest int) string { return s[:min(len(s), longest)] }

// printable keeps what may be shown of a text that somebody else wrote.
func printable(s string, longest int) string {
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return -1
		}
		return c
	}, clip(s, longest)))
}
