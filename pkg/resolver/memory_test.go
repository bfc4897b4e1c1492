package resolver

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}) }

func TestMemoryTellsTheLastNameFirst(t *testing.T) {
	m := newMemory(10, 100, 100)
	now := time.Now()
	m.tell("w", "a", []netip.Addr{addr(1), addr(2)}, time.Minute, now)
	m.tell("w", "b", []netip.Addr{addr(1)}, time.Minute, now)
	if diff := cmp.Diff([]string{"b", "a"}, m.names("w", addr(1), now)); diff != "" {
		t.Error(diff)
	}
	m.tell("w", "a", []netip.Addr{addr(1)}, time.Minute, now)
	if diff := cmp.Diff([]string{"a", "b"}, m.names("w", addr(1), now)); diff != "" {
		t.Error(diff)
	}
}

func TestMemoryTimes(t *testing.T) {
	now := time.Now()
	for label, tt := range map[string]struct {
		ttls []time.Duration
		good time.Duration
	}{
		"floor":           {[]time.Duration{0}, rememberFloor},
		"ttl":             {[]time.Duration{time.Hour}, time.Hour + rememberExtra},
		"never shortened": {[]time.Duration{time.Hour, 0}, time.Hour + rememberExtra},
	} {
		m := newMemory(10, 100, 100)
		for _, ttl := range tt.ttls {
			m.tell("w", "a", []netip.Addr{addr(1)}, ttl, now)
		}
		if len(m.addresses("w", "a", now.Add(tt.good-time.Second))) != 1 {
			t.Errorf("%s: forgotten early", label)
		}
		if len(m.addresses("w", "a", now.Add(tt.good))) != 0 || len(m.names("w", addr(1), now.Add(tt.good))) != 0 {
			t.Errorf("%s: remembered too long", label)
		}
		m.sweep(now.Add(tt.good))
		if w, p := m.size(); w != 0 || p != 0 {
			t.Errorf("%s: %d workloads, %d pairs after the sweep", label, w, p)
		}
	}
}

// A workload that asks for very many names loses its own oldest, not those of
// another.
func TestMemoryIsFair(t *testing.T) {
	m := newMemory(10, 100, 80)
	now := time.Now()
	for i := range 10 {
		m.tell("modest", fmt.Sprint("m", i), []netip.Addr{addr(i)}, 0, now)
	}
	for i := range 1000 {
		m.tell("greedy", fmt.Sprint("g", i), []netip.Addr{addr(i)}, 0, now)
	}
	for i := range 100 {
		m.tell("greedy2", fmt.Sprint("g", i), []netip.Addr{addr(i)}, 0, now)
	}
	for i := range 10 {
		if len(m.addresses("modest", fmt.Sprint("m", i), now)) != 1 {
			t.Errorf("m%d was pushed out", i)
		}
	}
	if len(m.addresses("greedy", "g999", now)) != 1 || len(m.addresses("greedy", "g0", now)) != 0 {
		t.Error("not the oldest was dropped")
	}
	if _, p := m.size(); p > 100 {
		t.Errorf("%d pairs", p)
	}
}

func TestMemoryBoundsWorkloads(t *testing.T) {
	m := newMemory(3, 100, 100)
	now := time.Now()
	for i := range 10 {
		m.tell(fmt.Sprint("w", i), "a", []netip.Addr{addr(1)}, 0, now.Add(time.Duration(i)*time.Second))
	}
	if w, p := m.size(); w != 3 || p != 3 {
		t.Errorf("%d workloads, %d pairs", w, p)
	}
	if len(m.addresses("w9", "a", now)) != 1 || len(m.addresses("w0", "a", now)) != 0 {
		t.Error("not the oldest was dropped")
	}
}

// Whatever happens, counts, indexes and bounds hold.
func TestMemoryInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMemory(3, 12, 8)
		now := time.Unix(1_000_000, 0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w := fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "workload"))
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "seconds")) * time.Second)
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				m.drop(w)
			case 1:
				m.sweep(now)
			default:
				var addrs []netip.Addr
				for range rapid.IntRange(0, 15).Draw(t, "n") {
					addrs = append(addrs, addr(rapid.IntRange(0, 9).Draw(t, "addr")))
				}
				m.tell(w, fmt.Sprint("n", rapid.IntRange(0, 5).Draw(t, "name")), addrs, 0, now)
			}
			total := 0
			for _, x := range m.workloads {
				total += x.pairs.Len()
				byName, byAddr := 0, 0
				for _, l := range x.byName {
					byName += len(l)
				}
				for _, l := range x.byAddr {
					byAddr += len(l)
				}
				if byName != x.pairs.Len() || byAddr != x.pairs.Len() || x.pairs.Len() > 8 {
					t.Fatalf("%d pairs, %d by name, %d by address", x.pairs.Len(), byName, byAddr)
				}
			}
			if total != m.pairs || total > 12 || len(m.workloads) > 3 {
				t.Fatalf("%d pairs counted %d in %d workloads", total, m.pairs, len(m.workloads))
			}
		}
	})
}
