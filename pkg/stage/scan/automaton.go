package scan

import (
	"encoding/binary"
	"regexp/syntax"
	"slices"
	"sync"
	"sync/atomic"
)

// maxStates bounds the memory of the states that one automaton remembers, in
// bytes. When they are more, all are forgotten and made again as they are
// needed: text chosen so that each byte makes a new one is read as slowly as
// without them, and in the same memory.
const maxStates = 2 << 20

// An automaton runs a program of regexp/syntax over runes. It remembers what
// each set of threads becomes by each class of runes (a lazy DFA, as in RE2), so
// that text costs one look-up a byte. Any number of goroutines use it; only
// those that come to something new take the lock.
type automaton struct {
	*classes
	prog  *syntax.Prog
	entry uint32 // where every thread begins
	// longest finds the longest match that begins where it was started; else the
	// leftmost match is found, and of those the one that the expression prefers.
	longest bool
	// looks says that the program asks what stands before or behind a place.
	looks bool
	begin [contexts]atomic.Pointer[state]

	mu     sync.Mutex
	states map[string]*state
	size   int
	begun  map[int]*beginning
	// What follows serves one step.
	stack, queue, list []uint32
	seen, listed       []uint32
	turn               uint32
	key                []byte
}

// A context is what a program can ask of the rune before a place.
type context uint8

const (
	textBegins context = iota
	afterNewline
	afterWord
	afterOther
	contexts
)

// contextRunes has a rune for each context; -1 is none.
var contextRunes = [contexts]rune{-1, '\n', 'a', ' '}

// flags of a state.
const (
	// home: no match has begun before the place.
	home uint8 = 1 << iota
	// matched: a match ends before the rune that led here.
	matched
	// dead: nothing can be found any more.
	dead
)

// A state is a list of threads, in the order in which the expression prefers
// them. They stand before what only the next rune can decide, so that a match
// is noticed one rune later than it ends.
type state struct {
	flags uint8
	// next is by class; the last place is the end of the text.
	next []atomic.Pointer[state]
	// list has the threads' places in the program.
	list   []uint32
	before context
	// seeking: a match may still begin at a later place.
	seeking bool
}

func newAutomaton(re *syntax.Regexp, longest bool) (*automaton, error) {
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return nil, err
	}
	// A way in that no thread comes by again, so that a loop at the beginning of
	// the expression is not taken for a search that has not begun.
	entry := len(prog.Inst)
	prog.Inst = append(prog.Inst, syntax.Inst{Op: syntax.InstNop, Out: uint32(prog.Start)})
	a := &automaton{
		entry: uint32(entry), prog: prog, longest: longest, states: make(map[string]*state),
		seen: make([]uint32, len(prog.Inst)), listed: make([]uint32, len(prog.Inst)),
	}
	for i := range prog.Inst {
		a.looks = a.looks || prog.Inst[i].Op == syntax.InstEmptyWidth
	}
	a.classes = newClasses(prog, a.looks)
	return a, nil
}

// end is the class of the end of the text.
func (a *automaton) end() int { return len(a.runes) }

// context gives what the program can ask of a rune, -1 for none.
func (a *automaton) context(r rune) context {
	switch {
	case !a.looks:
		return afterOther
	case r < 0:
		return textBegins
	case r == '\n':
		return afterNewline
	case syntax.IsWordChar(r):
		return afterWord
	default:
		return afterOther
	}
}

// start gives the state behind the rune r, -1 at the beginning of the text.
func (a *automaton) start(r rune) *state {
	c := a.context(r)
	if s := a.begin[c].Load(); s != nil {
		return s
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list[:0], a.entry)
	s := a.intern(c, !a.longest, false)
	a.begin[c].Store(s)
	return s
}

// step gives what follows s by a rune of the class.
func (a *automaton) step(s *state, class int) *state {
	if t := s.next[class].Load(); t != nil {
		return t
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r := rune(-1)
	if class < len(a.runes) {
		r = a.runes[class]
	}
	looked := syntax.EmptyOpContext(contextRunes[s.before], r)
	a.turn++
	a.queue, a.list = a.queue[:0], a.list[:0]
	found := false
	list := s.list
	var begun *beginning
	if n := len(list) - 1; s.seeking && n > 0 {
		// What may begin here is the same in most states, and much of the work.
		if begun = a.beginnings(looked, class, r); begun.found {
			begun = nil
		} else {
			list = list[:n]
		}
	}
	for _, pc := range list {
		if a.follow(pc, looked) {
			found = true
			if !a.longest {
				// What the expression likes less than this match is not followed.
				break
			}
		}
	}
	seeking := s.seeking && !found && r >= 0
	if r >= 0 {
		for _, pc := range a.queue {
			if in := &a.prog.Inst[pc]; matchRune(in, r) {
				a.enlist(in.Out)
			}
		}
		if begun != nil && !(found && !a.longest) {
			for _, pc := range begun.next {
				a.enlist(pc)
			}
		}
		if seeking {
			a.enlist(a.entry)
		}
	}
	t := a.intern(a.context(r), seeking, found)
	s.next[class].Store(t)
	return t
}

// A beginning is what threads that begin at a place become by one rune; found
// says that they match nothing, which is a match.
type beginning struct {
	next  []uint32
	found bool
}

// beginnings gives the beginning by a rune of the class, where looked holds.
func (a *automaton) beginnings(looked syntax.EmptyOp, class int, r rune) *beginning {
	key := int(looked)<<16 | class
	if b := a.begun[key]; b != nil {
		return b
	}
	b := &beginning{found: a.follow(a.entry, looked)}
	for _, pc := range a.queue {
		if in := &a.prog.Inst[pc]; r >= 0 && matchRune(in, r) {
			b.next = append(b.next, in.Out)
		}
	}
	if a.begun == nil {
		a.begun = make(map[int]*beginning)
	}
	a.begun[key] = b
	// The step that asked begins anew.
	a.turn++
	a.queue = a.queue[:0]
	return b
}

// follow queues the threads that wait for a rune after pc, and reports whether
// it came to a match.
func (a *automaton) follow(pc uint32, looked syntax.EmptyOp) bool {
	found := false
	a.stack = append(a.stack[:0], pc)
	for len(a.stack) > 0 {
		pc := a.stack[len(a.stack)-1]
		a.stack = a.stack[:len(a.stack)-1]
		if a.seen[pc] == a.turn {
			continue
		}
		a.seen[pc] = a.turn
		switch in := &a.prog.Inst[pc]; in.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			a.stack = append(a.stack, in.Arg, in.Out)
		case syntax.InstCapture, syntax.InstNop:
			a.stack = append(a.stack, in.Out)
		case syntax.InstEmptyWidth:
			if syntax.EmptyOp(in.Arg)&^looked == 0 {
				a.stack = append(a.stack, in.Out)
			}
		case syntax.InstMatch:
			if !a.longest {
				return true
			}
			found = true
		case syntax.InstFail:
		default:
			a.queue = append(a.queue, pc)
		}
	}
	return found
}

func (a *automaton) enlist(pc uint32) {
	if a.listed[pc] != a.turn {
		a.listed[pc] = a.turn
		a.list = append(a.list, pc)
	}
}

func matchRune(in *syntax.Inst, r rune) bool {
	switch in.Op {
	case syntax.InstRuneAny:
		return true
	case syntax.InstRuneAnyNotNL:
		return r != '\n'
	default:
		return in.MatchRune(r)
	}
}

// intern gives the one state with the threads of a.list.
func (a *automaton) intern(before context, seeking, found bool) *state {
	k := append(a.key[:0], byte(before), 0)
	if seeking {
		k[1] |= 1
	}
	if found {
		k[1] |= 2
	}
	for _, pc := range a.list {
		k = binary.AppendUvarint(k, uint64(pc))
	}
	a.key = k
	if s, ok := a.states[string(k)]; ok {
		return s
	}
	s := &state{list: slices.Clone(a.list), before: before, seeking: seeking, next: make([]atomic.Pointer[state], len(a.runes)+1)}
	if found {
		s.flags |= matched
	}
	switch {
	case len(s.list) == 0:
		s.flags |= dead
	case seeking && len(s.list) == 1 && s.list[0] == a.entry:
		s.flags |= home
	}
	cost := 128 + 8*len(s.next) + 4*len(s.list) + len(k)
	if a.size += cost; a.size > maxStates {
		// Nor do they lead to others any more: who waits in one of them, in a stream
		// that is idle, would keep all that comes later.
		for _, forgotten := range a.states {
			for i := range forgotten.next {
				forgotten.next[i].Store(nil)
			}
		}
		clear(a.states)
		for i := range a.begin {
			a.begin[i].Store(nil)
		}
		a.size = cost
	}
	a.states[string(k)] = s
	return s
}

// reverse gives the expression of the texts read from their ends.
func reverse(re *syntax.Regexp) *syntax.Regexp {
	out := *re
	switch re.Op {
	case syntax.OpBeginLine:
		out.Op = syntax.OpEndLine
	case syntax.OpEndLine:
		out.Op = syntax.OpBeginLine
	case syntax.OpBeginText:
		out.Op = syntax.OpEndText
	case syntax.OpEndText:
		out.Op = syntax.OpBeginText
	}
	out.Rune = slices.Clone(re.Rune)
	if re.Op == syntax.OpLiteral {
		slices.Reverse(out.Rune)
	}
	out.Sub = make([]*syntax.Regexp, len(re.Sub))
	for i, sub := range re.Sub {
		out.Sub[i] = reverse(sub)
	}
	if re.Op == syntax.OpConcat {
		slices.Reverse(out.Sub)
	}
	return &out
}
