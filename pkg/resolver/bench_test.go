package resolver

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// quiet lets a benchmark run for long: it keeps nothing.
func quiet(allowed bool) *fakes {
	return &fakes{allowed: func(string) bool { return allowed }, discard: true}
}

func BenchmarkAnswerRefused(b *testing.B) {
	r := newResolver(b, quiet(false), Limits{}, netip.MustParseAddrPort("127.0.0.1:9"))
	msg := question(b, "a.example.com.", dnsmessage.TypeA, true)
	b.ReportAllocs()
	for b.Loop() {
		if r.Answer(b.Context(), Client{Workload: "w"}, msg, false) == nil {
			b.Fatal("no reply")
		}
	}
}

func BenchmarkAnswerFromUpstream(b *testing.B) {
	u := newUpstream(b, zone(rrA("a.example.com.", "203.0.113.7", 60)))
	r := newResolver(b, quiet(true), Limits{}, u.addr)
	msg := question(b, "a.example.com.", dnsmessage.TypeA, true)
	b.ReportAllocs()
	for b.Loop() {
		if r.Answer(b.Context(), Client{Workload: "w"}, msg, false) == nil {
			b.Fatal("no reply")
		}
	}
}

func BenchmarkParseResponse(b *testing.B) {
	q := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{Name: name("a.example.com."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	m := respond(q, rrCNAME("a.example.com.", "b.test.", 60), rrA("b.test.", "203.0.113.1", 60), rrA("b.test.", "203.0.113.2", 60))
	msg, err := m.Pack()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseResponse(msg, "a.example.com", dnsmessage.TypeA, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookupCached(b *testing.B) {
	u := newUpstream(b, zone(rrA("a.example.com.", "203.0.113.7", 3600), rrAAAA("a.example.com.", "2001:db8::7", 3600)))
	r := newResolver(b, quiet(true), Limits{}, u.addr)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Lookup(b.Context(), "w", "a.example.com"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkName(b *testing.B) {
	r := newResolver(b, quiet(true), Limits{}, netip.MustParseAddrPort("127.0.0.1:9"))
	for i := range 4096 {
		r.memory.tell("w", fmt.Sprintf("n%d.example.com", i), []netip.Addr{addr(i)}, time.Hour, time.Now())
	}
	a := addr(17)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := r.Name("w", a); !ok {
			b.Fatal("unknown")
		}
	}
}

// When the memory is full, each further name costs a look at all workloads.
func BenchmarkTellWhenFull(b *testing.B) {
	m := newMemory(1024, 65536, 4096)
	now := time.Now()
	for w := range 1024 {
		for i := range 64 {
			m.tell(fmt.Sprint("w", w), fmt.Sprint("n", i), []netip.Addr{addr(i)}, time.Hour, now)
		}
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		m.tell("w0", fmt.Sprint("x", i), []netip.Addr{addr(1)}, time.Hour, now)
	}
}
