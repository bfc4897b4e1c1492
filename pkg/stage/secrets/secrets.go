// Package secrets knows what keys, tokens, private keys and card numbers look
// like. It finds them in one pass over a text, however many kinds there are.
package secrets

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"regexp"
	"strings"
	"sync"

	"sallyport/pkg/stage/scan"
)

// A Set is the built-in detectors, compiled.
type Set struct {
	pattern *scan.Pattern
	kinds   []kind
	// Of *scan.Scanner: those that read escapes of JSON, and those of URLs.
	scanners, urls sync.Pool
}

// A kind is a detector with what attributes a match to it.
type kind struct {
	*detector
	whole *regexp.Regexp
	mark  []byte
}

// New compiles the built-in detectors.
func New() (*Set, error) { return compile(detectors) }

func compile(list []detector) (*Set, error) {
	s := &Set{}
	exprs := make([]string, len(list))
	for i := range list {
		d := &list[i]
		whole, err := regexp.Compile(`\A(?:` + d.expr + `)\z`)
		if err != nil {
			return nil, fmt.Errorf("detector %s: %w", d.id, err)
		}
		exprs[i] = `(?:` + d.expr + `)`
		s.kinds = append(s.kinds, kind{d, whole, []byte("[redacted:" + d.id + "]")})
	}
	var err error
	if s.pattern, err = scan.Compile(strings.Join(exprs, "|")); err != nil {
		return nil, fmt.Errorf("detectors: %w", err)
	}
	return s, nil
}

// Search gives what a scanner looks for; the name of what it finds is the
// detector's id. It reads text with its escapes decoded.
func (s *Set) Search(hold bool) scan.Search {
	return scan.Search{Pattern: s.pattern, View: scan.ViewOnly, Hold: hold, Accept: s.attribute}
}

// Mark gives what stands in the place of a redacted secret of that detector.
func (s *Set) Mark(id string) []byte {
	for i := range s.kinds {
		if s.kinds[i].id == id {
			return s.kinds[i].mark
		}
	}
	return []byte("[redacted]")
}

// attribute gives the detector of a match.
func (s *Set) attribute(front, match, rear []byte) (string, bool) {
	for i := range s.kinds {
		k := &s.kinds[i]
		if !k.whole.Match(match) {
			continue
		}
		if k.entropy > 0 && entropy(match) < k.entropy || k.check != nil && !k.check(front, match, rear) {
			continue
		}
		return k.id, true
	}
	return "", false
}

// maxHeld bounds one secret that is still open; longer ones are cut off there.
const maxHeld = 1 << 20

// Redact appends p to dst with each secret in it replaced by its detector's
// mark. p is a whole text, such as a body that is recorded.
func (s *Set) Redact(dst, p []byte) []byte { return s.redact(&s.scanners, scan.JSON, dst, p) }

// RedactURL is Redact for a path or a query, in which a secret may be
// percent-encoded.
func (s *Set) RedactURL(dst, p []byte) []byte { return s.redact(&s.urls, scan.Form, dst, p) }

func (s *Set) redact(pool *sync.Pool, view scan.View, dst, p []byte) []byte {
	r, ok := pool.Get().(*scan.Scanner)
	if !ok {
		r = scan.NewScanner([]scan.Search{s.Search(true)}, view, maxHeld, func(f scan.Found) (scan.Verdict, error) {
			return scan.Verdict{Replace: s.Mark(f.Name)}, nil
		})
	}
	before := len(dst)
	out, err := r.Feed(dst, p, true)
	if err != nil {
		// Text made so that it cannot be read in bounded time is not recorded.
		out = append(out[:before], "[redacted:unreadable]"...)
	}
	r.Reset()
	pool.Put(r)
	return out
}

// entropy gives the bits a byte of p by how often each byte occurs in it.
func entropy(p []byte) float64 {
	var count [256]int
	for _, c := range p {
		count[c]++
	}
	sum := 0.0
	for _, n := range count {
		if n > 0 {
			share := float64(n) / float64(len(p))
			sum -= share * math.Log2(share)
		}
	}
	return sum
}

// noExample refuses the keys of AWS's documentation.
func noExample(_, match, _ []byte) bool {
	return !bytes.HasSuffix(match, []byte("EXAMPLE")) && !bytes.HasSuffix(match, []byte("EXAMPLEKEY"))
}

// isCard checks the last digit (Luhn, ISO/IEC 7812-1) and that the digits are no
// part of a fraction or of a longer group of digits.
func isCard(front, match, rear []byte) bool {
	if n := len(front); n > 0 && (front[n-1] == '.' || front[n-1] == '-' && n > 1 && isDigit(front[n-2])) {
		return false
	}
	if len(rear) > 1 && (rear[0] == '.' || rear[0] == '-') && isDigit(rear[1]) {
		return false
	}
	sum, n := 0, 0
	kinds := 0
	var seen [10]bool
	for i := len(match) - 1; i >= 0; i-- {
		c := match[i]
		if !isDigit(c) {
			continue
		}
		d := int(c - '0')
		if !seen[d] {
			seen[d] = true
			kinds++
		}
		if n%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
		n++
	}
	return sum%10 == 0 && kinds > 1
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isPrivateKey wants some of the key behind its first line.
func isPrivateKey(_, match, _ []byte) bool {
	i := bytes.Index(match, []byte("KEY"))
	return len(match)-i > 64
}

// isJWT wants a header that names an algorithm (RFC 7519, RFC 7515 section 4.1.1).
func isJWT(_, match, _ []byte) bool {
	head, _, _ := bytes.Cut(match, []byte("."))
	p, err := base64.RawURLEncoding.DecodeString(string(head))
	return err == nil && bytes.Contains(p, []byte(`"alg"`))
}
