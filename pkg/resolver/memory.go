package resolver

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// rememberFloor is how long an address is remembered at least. Programs hold
	// addresses far longer than the TTL says (connection pools, JVMs).
	rememberFloor = 10 * time.Minute
	// rememberExtra is what is added to the TTL that the client was told.
	rememberExtra = time.Minute
)

// memory is what workloads were told: which addresses for a name, which names
// for an address. Its order is the order of telling; reading changes nothing, so
// that readers do not wait for each other.
type memory struct {
	mu            sync.RWMutex
	workloads     map[string]*told
	pairs         int
	maxWorkloads  int
	maxPairs      int
	maxOfWorkload int
}

type pair struct {
	name string
	addr netip.Addr
}

// told is the memory of one workload.
type told struct {
	pairs  *simplelru.LRU[pair, time.Time] // to when it is good
	byName map[string][]netip.Addr
	byAddr map[netip.Addr][]string // the one told last is last
	last   time.Time
}

func newMemory(workloads, pairs, ofWorkload int) *memory {
	return &memory{workloads: make(map[string]*told), maxWorkloads: workloads, maxPairs: pairs, maxOfWorkload: min(ofWorkload, pairs)}
}

// tell remembers that a workload was told addrs for name with the given TTL.
func (m *memory) tell(workload, name string, addrs []netip.Addr, ttl time.Duration, now time.Time) {
	if len(addrs) == 0 {
		return
	}
	until := now.Add(max(rememberFloor, ttl+rememberExtra))
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.workloads[workload]
	if t == nil {
		if len(m.workloads) >= m.maxWorkloads {
			m.dropWorkload()
		}
		t = m.newTold()
		m.workloads[workload] = t
	}
	t.last = now
	for _, addr := range addrs {
		t.add(pair{name, addr}, until, m)
		for m.pairs > m.maxPairs {
			m.victim(t).pairs.RemoveOldest()
		}
	}
}

func (m *memory) newTold() *told {
	t := &told{byName: make(map[string][]netip.Addr), byAddr: make(map[netip.Addr][]string)}
	// The error is for a size below 1.
	t.pairs, _ = simplelru.NewLRU(max(1, m.maxOfWorkload), func(p pair, _ time.Time) {
		m.pairs--
		t.unindex(p)
	})
	return t
}

func (t *told) add(p pair, until time.Time, m *memory) {
	if old, ok := t.pairs.Peek(p); ok {
		// Never shortened: the client may still hold the longer one.
		if old.After(until) {
			until = old
		}
		t.pairs.Add(p, until)
		names := t.byAddr[p.addr]
		names = slices.DeleteFunc(names, func(n string) bool { return n == p.name })
		t.byAddr[p.addr] = append(names, p.name)
		return
	}
	t.byName[p.name] = append(t.byName[p.name], p.addr)
	t.byAddr[p.addr] = append(t.byAddr[p.addr], p.name)
	m.pairs++
	t.pairs.Add(p, until)
}

func (t *told) unindex(p pair) {
	addrs := slices.DeleteFunc(t.byName[p.name], func(a netip.Addr) bool { return a == p.addr })
	if t.byName[p.name] = addrs; len(addrs) == 0 {
		delete(t.byName, p.name)
	}
	names := slices.DeleteFunc(t.byAddr[p.addr], func(n string) bool { return n == p.name })
	if t.byAddr[p.addr] = names; len(names) == 0 {
		delete(t.byAddr, p.addr)
	}
}

// victim is who has to forget something for t: itself where it has more than
// its share, which also keeps a greedy workload from making others wait.
func (m *memory) victim(t *told) *told {
	if t.pairs.Len() > m.maxPairs/len(m.workloads) {
		return t
	}
	var largest *told
	for _, t := range m.workloads {
		if largest == nil || t.pairs.Len() > largest.pairs.Len() {
			largest = t
		}
	}
	return largest
}

// dropWorkload forgets the workload that was told something longest ago.
func (m *memory) dropWorkload() {
	var oldest string
	for name, t := range m.workloads {
		if first := m.workloads[oldest]; first == nil || t.last.Before(first.last) {
			oldest = name
		}
	}
	m.drop(oldest)
}

func (m *memory) drop(workload string) {
	if t := m.workloads[workload]; t != nil {
		m.pairs -= t.pairs.Len()
		delete(m.workloads, workload)
	}
}

// maxTold bounds what addresses gives: a name whose server makes up addresses
// without end is not worth more.
const maxTold = 256

// addresses gives what a workload was told for name and may still hold, the
// newest maxTold of it.
func (m *memory) addresses(workload, name string, now time.Time) []netip.Addr {
	m.mu.RLock()
	defer m.mu.RUnlock()
	t := m.workloads[workload]
	if t == nil {
		return nil
	}
	var out []netip.Addr
	for _, addr := range slices.Backward(t.byName[name]) {
		if len(out) == maxTold {
			break
		}
		if until, ok := t.pairs.Peek(pair{name, addr}); ok && now.Before(until) {
			out = append(out, addr)
		}
	}
	return out
}

// names gives the names that a workload was told addr for, the last one first.
func (m *memory) names(workload string, addr netip.Addr, now time.Time) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	t := m.workloads[workload]
	if t == nil {
		return nil
	}
	var out []string
	for _, name := range slices.Backward(t.byAddr[addr]) {
		if until, ok := t.pairs.Peek(pair{name, addr}); ok && now.Before(until) {
			out = append(out, name)
		}
	}
	return out
}

// sweep drops what is too old.
func (m *memory) sweep(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, t := range m.workloads {
		for _, p := range t.pairs.Keys() {
			if until, ok := t.pairs.Peek(p); ok && !now.Before(until) {
				t.pairs.Remove(p)
			}
		}
		if t.pairs.Len() == 0 {
			delete(m.workloads, name)
		}
	}
}

func (m *memory) size() (workloads, pairs int) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.workloads), m.pairs
}
