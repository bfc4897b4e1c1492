package secrets

import (
	"math/rand/v2"
	"testing"

	"sallyport/pkg/stage/scan"
)

// BenchmarkBinary is text in which nothing is text.
func BenchmarkBinary(b *testing.B) {
	r := rand.New(rand.NewPCG(7, 8))
	p := make([]byte, 256<<10)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	s, dst := scanner(newSet(b).Search(true), scan.JSON), make([]byte, 0, len(p)+64)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		feed(b, s, dst, p)
	}
}

// BenchmarkShort is many short texts.
func BenchmarkShort(b *testing.B) {
	p := []byte("a text as short as a field of a header")
	s, dst := scanner(newSet(b).Search(true), nil), make([]byte, 0, len(p)+64)
	b.ReportAllocs()
	for b.Loop() {
		feed(b, s, dst, p)
	}
}

// BenchmarkHostile is text made of beginnings of secrets, so that the automaton
// has seen little of it before.
func BenchmarkHostile(b *testing.B) {
	r := rand.New(rand.NewPCG(9, 10))
	var words []string
	for i := range detectors {
		words = append(words, detectors[i].keywords...)
	}
	var p []byte
	for len(p) < 256<<10 {
		p = append(p, words[r.IntN(len(words))]...)
		for range r.IntN(20) {
			p = append(p, alnum[r.IntN(len(alnum))])
		}
		p = append(p, "-_. "[r.IntN(4)])
	}
	s, dst := scanner(newSet(b).Search(true), scan.JSON), make([]byte, 0, len(p)+64)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		feed(b, s, dst, p)
	}
}
