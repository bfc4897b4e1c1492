package scan

import (
	"errors"
	"sort"
	"unicode/utf8"
)

// ErrBound is text that would have to be held back beyond the bound, or read
// again too often, before it is known where a match ends.
var ErrBound = errors.New("what may be a match is longer than the bound")

// A Search is one expression to look for.
type Search struct {
	Pattern *Pattern
	// View is what a Scanner's View does to this search.
	View ViewUse
	// Eager says that the first match is all that is wanted, and of it only that
	// it is there: Found is told as soon as its end is seen, with an empty span.
	Eager bool
	// Hold says that nothing that may become part of a match is passed on before
	// that is known.
	Hold bool
	// Accept, where it is set, has the last word about a match: front are up to a
	// few bytes before it, whole is the match, rear a few bytes behind it. The
	// name is handed to Found.
	Accept func(front, whole, rear []byte) (name string, ok bool)
}

// ViewUse says in which form a search reads text that has units.
type ViewUse uint8

// The forms. The zero value reads the bytes as they are.
const (
	RawOnly ViewUse = iota
	// RawAndView looks for matches in both.
	RawAndView
	// ViewOnly looks in the text with its units decoded.
	ViewOnly
)

// A View finds units. It is given text from a place where no unit is open, and
// appends those of it to units, by their offset in p; it gives how much of p is
// settled, all of it where last says that nothing follows.
type View func(units []Unit, p []byte, last bool) ([]Unit, int)

// A Found is one match.
type Found struct {
	// Search is the place of the search in the scanner's list.
	Search int
	// Name is what Accept gave.
	Name string
	// Pos and End are offsets in the stream, before anything was replaced.
	Pos, End int64
}

// A Verdict is what is done about a match.
type Verdict struct {
	// Replace, not nil, is put in the place of the match.
	Replace []byte
	// Stop ends the search for this expression.
	Stop bool
}

// contextBytes are kept before what is still to be judged: a search looks at one
// rune, Accept at a few bytes.
const contextBytes = 32

// workFree and workFactor bound the bytes that a search reads again, because a
// longer match that was tried did not come true.
const (
	workFree   = 1 << 20
	workFactor = 64
)

// A Scanner looks for several expressions in one stream. It is used by one
// goroutine.
type Scanner struct {
	searches []Search
	view     View
	// bound is how many bytes are held back at most.
	bound int
	found func(Found) (Verdict, error)

	text
	heads []head
	// viewing says that units were seen, so that heads read them.
	viewing bool
	// settled is how far units are known, emitted how far text was passed on or
	// replaced.
	settled, emitted int64
	spans            []span
	accept           []byte
}

// A span is to be replaced.
type span struct {
	pos, end int64
	with     []byte
}

// NewScanner makes a scanner. view may be nil. found is called for each match,
// of one search in the order of the text; its error ends the scan.
func NewScanner(searches []Search, view View, bound int, found func(Found) (Verdict, error)) *Scanner {
	s := &Scanner{searches: searches, view: view, bound: bound, found: found}
	s.Reset()
	return s
}

// Reset makes the scanner ready for another text.
func (s *Scanner) Reset() {
	s.buf, s.base, s.units, s.spans = s.buf[:0], 0, s.units[:0], s.spans[:0]
	s.viewing, s.settled, s.emitted = false, 0, 0
	s.heads = s.heads[:0]
	for i := range s.searches {
		h := head{search: i, Search: &s.searches[i]}
		h.restart(&s.text, 0)
		s.heads = append(s.heads, h)
	}
}

// Held gives the bytes that were fed and not passed on.
func (s *Scanner) Held() int { return int(s.base + int64(len(s.buf)) - s.emitted) }

// Feed reads p and appends to dst what may be passed on; last says that the text
// ends with it. The error is that of found, or ErrBound.
func (s *Scanner) Feed(dst, p []byte, last bool) ([]byte, error) {
	s.buf = append(s.buf, p...)
	s.settle(last)
	for i := 0; i < len(s.heads); i++ {
		if err := s.run(&s.heads[i], last); err != nil {
			return dst, err
		}
	}
	keep, free := s.settled, s.settled
	if last {
		free = s.base + int64(len(s.buf))
	}
	for i := range s.heads {
		h := &s.heads[i]
		if h.done {
			continue
		}
		open := min(h.home, free)
		if last {
			open = free
		}
		over := free-open > int64(s.bound) || h.work > workFree+workFactor*s.settled
		if over && h.Hold {
			return dst, ErrBound
		}
		if over {
			// What is only reported is not followed any further back.
			h.work = 0
			h.restart(&s.text, s.settled)
			open = s.settled
		}
		if !h.Eager || h.Hold {
			keep = min(keep, open)
		}
		if h.Hold {
			free = min(free, open)
		}
	}
	dst = s.emit(dst, free)
	s.drop(min(keep, s.emitted))
	return dst, nil
}

// settle finds the units of what came and how far whole runes go.
func (s *Scanner) settle(last bool) {
	p := s.buf[s.settled-s.base:]
	n := len(p)
	known := len(s.units)
	if s.view != nil {
		s.units, n = s.view(s.units, p, last)
		for i := known; i < len(s.units); i++ {
			s.units[i].Pos += s.settled
		}
	}
	if !last {
		n -= incomplete(p[:n])
	}
	if !s.viewing && len(s.units) > known {
		s.viewing = true
		for i := range s.searches {
			h := s.heads[i]
			switch {
			case h.View == RawOnly || h.done:
			case h.View == ViewOnly:
				s.heads[i].view = true
			default:
				h.view = true
				s.heads = append(s.heads, h)
			}
		}
	}
	s.settled += int64(n)
}

// incomplete gives the length of the beginning of a rune at the end of p.
func incomplete(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if b := p[len(p)-n]; utf8.RuneStart(b) {
			if b >= utf8.RuneSelf && !utf8.FullRune(p[len(p)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}

// run lets one head read what is settled.
func (s *Scanner) run(h *head, last bool) error {
	for !h.done {
		over := h.advance(&s.text, s.settled)
		if !over && (!last || !h.finish()) {
			return nil
		}
		if h.match < 0 {
			// Only the end of the text leaves nothing to find: an expression that
			// wants to stand at its beginning.
			h.done = true
			return nil
		}
		if h.work > workFree+workFactor*s.settled {
			return s.tooMuch(h)
		}
		if err := s.judge(h); err != nil {
			return err
		}
	}
	return nil
}

// tooMuch ends a head that had to read too much again.
func (s *Scanner) tooMuch(h *head) error {
	if h.Hold {
		return ErrBound
	}
	h.done = true
	return nil
}

// judge deals with the match that h has found, and starts it again behind.
func (s *Scanner) judge(h *head) error {
	end := h.match
	if h.Eager {
		h.done = true
		_, err := s.found(Found{Search: h.search, Pos: end, End: end})
		return err
	}
	behind := rune(-1)
	if end < s.settled {
		behind, _ = s.after(end, h.view)
	}
	pos := h.begin(&s.text, end, behind)
	if pos == end {
		s.skip(h, end)
		return nil
	}
	f := Found{Search: h.search, Pos: pos, End: end}
	if h.Accept != nil {
		s.accept = s.append(s.accept[:0], pos, end, h.view)
		ok := false
		front := s.buf[max(pos-contextBytes, s.base)-s.base : pos-s.base]
		rear := s.buf[end-s.base : min(end+contextBytes, s.settled)-s.base]
		if f.Name, ok = h.Accept(front, s.accept, rear); !ok {
			s.skip(h, pos)
			return nil
		}
	}
	v, err := s.found(f)
	if err != nil {
		return err
	}
	if v.Replace != nil {
		s.replace(span{pos, end, v.Replace})
	}
	h.done = v.Stop
	if !h.done {
		h.restart(&s.text, end)
	}
	return nil
}

// skip starts a head again one rune behind pos.
func (s *Scanner) skip(h *head, pos int64) {
	if pos >= s.settled {
		h.done = true
		return
	}
	_, n := s.after(pos, h.view)
	h.restart(&s.text, pos+int64(n))
}

// replace remembers a span by its place.
func (s *Scanner) replace(v span) {
	i := sort.Search(len(s.spans), func(i int) bool { return s.spans[i].pos > v.pos })
	s.spans = append(s.spans, span{})
	copy(s.spans[i+1:], s.spans[i:])
	s.spans[i] = v
}

// emit appends what stands before free, with its spans replaced: those that
// overlap by the first of them.
func (s *Scanner) emit(dst []byte, free int64) []byte {
	n := 0
	for ; n < len(s.spans) && s.spans[n].pos < free; n++ {
		v := &s.spans[n]
		if v.pos >= s.emitted {
			dst = append(dst, s.buf[s.emitted-s.base:v.pos-s.base]...)
			dst = append(dst, v.with...)
		}
		s.emitted = max(s.emitted, v.end)
	}
	s.spans = s.spans[:copy(s.spans, s.spans[n:])]
	if s.emitted < free {
		dst = append(dst, s.buf[s.emitted-s.base:free-s.base]...)
		s.emitted = free
	}
	return dst
}

// drop forgets what stands before keep, but for some context.
func (s *Scanner) drop(keep int64) {
	keep -= contextBytes
	n := keep - s.base
	if n <= 0 || n < int64(len(s.buf))/2 {
		return
	}
	s.buf = s.buf[:copy(s.buf, s.buf[n:])]
	s.base = keep
	if i := s.unitFrom(keep); i > 0 {
		s.units = s.units[:copy(s.units, s.units[i:])]
	}
}

// Size gives the bytes of memory that the scanner holds for text.
func (s *Scanner) Size() int { return cap(s.buf) + cap(s.accept) + 24*cap(s.units) }
