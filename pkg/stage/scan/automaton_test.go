package scan

import (
	"math/rand/v2"
	"testing"
)

// TestForgottenStates: an expression with more states than are remembered. Who
// holds one of them while others read on does not keep theirs, and still finds
// what it looks for.
func TestForgottenStates(t *testing.T) {
	p, err := Compile(`a[ab]{16}c`)
	if err != nil {
		t.Fatal(err)
	}
	a := p.forward
	random := rand.New(rand.NewPCG(1, 2))
	s := a.start(-1)
	read := func(n int) {
		for range n {
			s = a.step(s, a.of(rune('a'+random.IntN(2))))
		}
	}
	read(100)
	// Found by an "a" that is 16 letters back.
	held, flushes := s, 0
	for size := a.size; flushes < 20; size = a.size {
		if read(100); a.size < size {
			flushes++
		}
	}
	seen := map[*state]bool{held: true}
	for queue := []*state{held}; len(queue) > 0; queue = queue[1:] {
		for i := range queue[0].next {
			if next := queue[0].next[i].Load(); next != nil && !seen[next] {
				seen[next] = true
				queue = append(queue, next)
			}
		}
	}
	most := maxStates / (128 + 8*len(held.next))
	if len(seen) > 2*most {
		t.Errorf("a held state leads to %d others, of which %d at most are remembered", len(seen), most)
	}
	s = held
	for range 17 {
		s = a.step(s, a.of('a'))
	}
	s = a.step(s, a.of('c'))
	if s = a.step(s, a.end()); s.flags&matched == 0 {
		t.Error("no match from a state that was forgotten")
	}
}
