package scan

import "unicode/utf8"

// A head is one search at its place in a text.
type head struct {
	search int // place in Scanner.searches
	*Search
	// view says that it reads the units as their runes.
	view bool
	// done: nothing more is looked for.
	done  bool
	state *state
	// pos is the next byte to read; no match begins before home.
	pos, home int64
	// match is the end of the best match so far, -1 without one.
	match int64
	// work counts bytes that were read again.
	work int64
}

// restart begins a search at pos.
func (h *head) restart(t *text, pos int64) {
	h.work += max(h.pos-pos, 0)
	r, _ := t.before(pos, h.view)
	h.state = h.Pattern.forward.start(r)
	h.pos, h.home, h.match = pos, pos, -1
}

// advance reads up to limit, or until it is known that the best match was found
// or, where only the first end counts, that there is one.
func (h *head) advance(t *text, limit int64) (found bool) {
	for h.pos < limit {
		to := limit
		unit := -1
		if h.view {
			if i := t.unitFrom(h.pos); i < len(t.units) && t.units[i].Pos < limit {
				unit, to = i, t.units[i].Pos
			}
		}
		if h.pos < to && h.read(t.buf[h.pos-t.base:to-t.base]) {
			return true
		}
		if unit >= 0 {
			u := &t.units[unit]
			if h.step(h.Pattern.forward.of(u.Rune), u.Len) {
				return true
			}
		}
	}
	return false
}

// step reads one rune of n bytes.
func (h *head) step(class, n int) bool {
	s := h.state.next[class].Load()
	if s == nil {
		s = h.Pattern.forward.step(h.state, class)
	}
	if s.flags&matched != 0 {
		h.match = h.pos
	}
	h.state = s
	h.pos += int64(n)
	if s.flags&home != 0 {
		h.home = h.pos
	}
	return h.over()
}

// over reports whether the search has its result.
func (h *head) over() bool {
	return h.state.flags&dead != 0 || h.Eager && h.match >= 0
}

// read is step for each rune of p, which ends with a whole one.
func (h *head) read(p []byte) bool {
	a := h.Pattern.forward
	s, start := h.state, h.pos
	for i := 0; i < len(p); {
		// Most text has nothing that a match could begin with.
		if s.flags == home {
			for i < len(p) {
				class, n := 0, 1
				if b := p[i]; b < utf8.RuneSelf {
					class = int(a.ascii[b])
				} else {
					class, n = a.wide(p[i:])
				}
				t := s.next[class].Load()
				if t == nil || t.flags != home {
					break
				}
				s = t
				i += n
			}
			h.home = start + int64(i)
			if i == len(p) {
				break
			}
		}
		class, n := 0, 1
		if b := p[i]; b < utf8.RuneSelf {
			class = int(a.ascii[b])
		} else {
			class, n = a.wide(p[i:])
		}
		t := s.next[class].Load()
		if t == nil {
			t = a.step(s, class)
		}
		s = t
		if s.flags != 0 {
			if s.flags&matched != 0 {
				h.match = start + int64(i)
			}
			if s.flags&home != 0 {
				h.home = start + int64(i+n)
			}
			h.state = s
			if h.over() {
				h.pos = start + int64(i+n)
				return true
			}
		}
		i += n
	}
	h.state, h.pos = s, start+int64(len(p))
	return false
}

// finish reads the end of the text.
func (h *head) finish() (found bool) {
	a := h.Pattern.forward
	if s := a.step(h.state, a.end()); s.flags&matched != 0 {
		h.match = h.pos
	}
	return h.match >= 0
}

// begin gives where the match that ends at end begins, end where there is none.
// behind is the rune that follows it, -1 at the end of the text.
func (h *head) begin(t *text, end int64, behind rune) int64 {
	a := h.Pattern.backward
	s := a.start(behind)
	best := end
	for pos := end; ; {
		r, from := t.before(pos, h.view)
		class := a.end()
		if r >= 0 {
			class = a.of(r)
		}
		s = a.step(s, class)
		if s.flags&matched != 0 {
			best = pos
		}
		if pos <= h.home || s.flags&dead != 0 || from >= pos {
			return best
		}
		pos = from
	}
}
