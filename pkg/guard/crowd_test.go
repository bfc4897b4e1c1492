package guard

import (
	"net/netip"
	"testing"
)

func here6Prefix() netip.Prefix { return netip.PrefixFrom(here6, 64) }

// crowd is a state with n elements in each of its sets.
func crowd(n int) State {
	s := State{Listeners: addrPorts("127.0.0.1:15001", "[::1]:15001"), Resolvers: addrPorts("127.0.0.1:15053")}
	for i := range n {
		id := uint64(1000 + i)
		s.Tagged = append(s.Tagged, Cgroup{id, 1})
		s.Inbound = append(s.Inbound, Inbound{id, uint16(80 + i%2)})
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0})
		s.Direct = append(s.Direct, Direct{id, netip.PrefixFrom(addr, 24), uint16(i), uint16(i + 10), TCP})
	}
	return s
}

// The benchmarks run in a namespace of their own, so that nothing else changes
// the generation.
func benchmark(b *testing.B, n int) (*Guard, State) {
	g, s := newGuard(b, newNamespace(b)), crowd(n)
	apply(b, g, s)
	b.ReportAllocs()
	b.ResetTimer()
	return g, s
}

// BenchmarkCheck is the usual case: nobody changed anything.
func BenchmarkCheck(b *testing.B) {
	g, _ := benchmark(b, 1000)
	for b.Loop() {
		if problems, err := g.Check(); err != nil || len(problems) > 0 {
			b.Fatal(problems, err)
		}
	}
}

// BenchmarkCheckRead is the case after a change of any table of the namespace.
func BenchmarkCheckRead(b *testing.B) {
	g, _ := benchmark(b, 1000)
	for b.Loop() {
		g.verified = 0
		if problems, err := g.Check(); err != nil || len(problems) > 0 {
			b.Fatal(problems, err)
		}
	}
}

// BenchmarkApplyOne tags a cgroup among a thousand, and untags it.
func BenchmarkApplyOne(b *testing.B) {
	g, s := benchmark(b, 1000)
	one := s
	one.Tagged = append(one.Tagged[:len(one.Tagged):len(one.Tagged)], Cgroup{7, 1})
	for i := 0; b.Loop(); i++ {
		next := s
		if i%2 == 0 {
			next = one
		}
		if err := g.Apply(next); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkApplyNew(b *testing.B) {
	g, s := benchmark(b, 1000)
	for b.Loop() {
		b.StopTimer()
		if err := g.Delete(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := g.Apply(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	s := crowd(1000)
	b.ReportAllocs()
	for b.Loop() {
		r, err := build(s)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := expect(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCounters(b *testing.B) {
	g, _ := benchmark(b, 1000)
	for b.Loop() {
		if _, err := g.Counters(); err != nil {
			b.Fatal(err)
		}
	}
}
