package cache

import (
	"context"
	"hash/maphash"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Store is the memory of all caches. Reading takes no lock. What is full
// drops what was not used since the hand of its queue last passed (SIEVE,
// https://www.usenix.org/conference/nsdi24/presentation/zhang-yazhuo), from the
// workload that is over half of everything or else from the one that holds
// most.
type Store struct {
	seed    maphash.Seed
	buckets []bucket

	mu     sync.Mutex
	max    int64
	used   int64
	shares map[string]*share
	// filling is what responses take that are still on their way.
	filling int64

	flights flights
}

// A bucket is a chain of resources.
type bucket struct {
	first atomic.Pointer[resource]
	// epoch is counted up by whatever makes responses old that are still on their
	// way.
	epoch atomic.Uint32
}

// A share is what one workload holds.
type share struct {
	name          string
	used, filling int64
	// The queue of its entries, and the hand, which goes from the oldest to the
	// newest.
	newest, oldest, hand *entry
}

// NewStore makes an empty store that holds at most max bytes: keys, fields,
// bodies, and what is on its way to be stored.
func NewStore(max int64) *Store {
	// A bucket for each 4 KiB, which is less than most entries.
	n := min(max>>12, 1<<18)
	return &Store{
		seed: maphash.MakeSeed(), max: max, shares: make(map[string]*share),
		buckets: make([]bucket, 1<<bits.Len64(uint64(n)|255)),
		flights: newFlights(),
	}
}

// Used gives the bytes that are stored or on their way, Max their bound.
func (s *Store) Used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// Max gives the bound of Used.
func (s *Store) Max() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.max
}

// SetMax changes the bound; what is over it is dropped at once.
func (s *Store) SetMax(max int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.max = max
	for _, sh := range s.shares {
		s.room(sh, 0)
	}
}

// Run drops what is of no use any more until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	t := time.NewTicker(30 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			s.drop(func(e *entry) bool { return e.freshness.dead(now, e.validators()) })
			s.flights.sweep(now)
		}
	}
}

// A Purged is what was dropped on demand.
type Purged struct {
	Entries int
	Bytes   int64
}

// Purge drops what a rule has stored, "" for every rule; what is on its way for
// it is not stored either.
func (s *Store) Purge(rule string) Purged {
	for i := range s.buckets {
		s.buckets[i].epoch.Add(1)
	}
	return s.drop(func(e *entry) bool { return rule == "" || e.scope.rule == rule })
}

// Keep drops what no rule with one of these prints has stored.
func (s *Store) Keep(prints map[string]Print) {
	s.drop(func(e *entry) bool {
		p, ok := prints[e.scope.rule]
		return !ok || p.digest != e.scope.print
	})
}

// drop removes every entry for which unwanted answers true. The lock is taken
// for one bucket at a time.
func (s *Store) drop(unwanted func(*entry) bool) Purged {
	var p Purged
	for i := range s.buckets {
		if s.buckets[i].first.Load() == nil {
			continue
		}
		s.mu.Lock()
		for r := s.buckets[i].first.Load(); r != nil; r = r.next.Load() {
			for _, e := range r.list() {
				if unwanted(e) {
					p.Entries++
					p.Bytes += e.size
					s.remove(e)
				}
			}
		}
		s.mu.Unlock()
	}
	s.mu.Lock()
	for _, sh := range s.shares {
		s.forget(sh)
	}
	s.mu.Unlock()
	return p
}

func (s *Store) bucket(hash uint64) *bucket { return &s.buckets[hash&uint64(len(s.buckets)-1)] }

func (s *Store) hash(key []byte) uint64 { return maphash.Bytes(s.seed, key) }

// find gives the resource with that key, nil for none.
func (s *Store) find(hash uint64, key []byte) *resource {
	for r := s.bucket(hash).first.Load(); r != nil; r = r.next.Load() {
		if r.key == string(key) {
			return r
		}
	}
	return nil
}

// invalidate drops all that is stored under a key, and lets nothing be stored
// under it that was asked for before.
func (s *Store) invalidate(key []byte) {
	hash := s.hash(key)
	s.bucket(hash).epoch.Add(1)
	if s.find(hash, key) == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.find(hash, key).list() {
		s.remove(e)
	}
}

// discard drops an entry, if it is still there.
func (s *Store) discard(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(e.resource.list(), e) {
		s.remove(e)
	}
}

// put stores an entry for a workload in the place of those that it replaces.
// reserved is what was reserved for it. It reports whether there was room and
// the epoch is still that of the time when the response was asked for.
func (s *Store) put(workload string, hash uint64, key []byte, e *entry, reserved int64, epoch uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.unreserve(workload, reserved)
	// Each variant is counted with the key and the resource, of which there is
	// one.
	e.size += int64(len(key)) + resourceOverhead
	b := s.bucket(hash)
	if b.epoch.Load() != epoch || e.size > s.max/2 {
		s.forget(sh)
		return false
	}
	r := s.find(hash, key)
	for _, old := range r.list() {
		if e.replaces(old) {
			s.remove(old)
		}
	}
	if list := r.list(); len(list) >= maxVariants {
		s.remove(list[len(list)-1])
	}
	if !s.room(sh, e.size) {
		s.forget(sh)
		return false
	}
	// What had to go may have taken the resource with it.
	if r = s.find(hash, key); r == nil {
		r = &resource{key: string(key), hash: hash}
		r.next.Store(b.first.Load())
		b.first.Store(r)
	}
	list := append([]*entry{e}, r.list()...)
	r.variants.Store(&list)
	e.resource, e.share = r, sh
	sh.used += e.size
	s.used += e.size
	sh.push(e)
	return true
}

// take gives the share of a workload. The lock is held.
func (s *Store) take(workload string) *share {
	sh := s.shares[workload]
	if sh == nil {
		sh = &share{name: workload}
		s.shares[workload] = sh
	}
	return sh
}

// forget drops a share that holds nothing. The lock is held.
func (s *Store) forget(sh *share) {
	if sh.used == 0 {
		delete(s.shares, sh.name)
	}
}

// room makes room for n bytes of a share; false is that there is none. The lock
// is held.
func (s *Store) room(sh *share, n int64) bool {
	for sh.used+n > s.max/2 {
		if !s.evict(sh) {
			return false
		}
	}
	for s.used+n > s.max {
		if !s.evict(s.largest()) {
			return false
		}
	}
	return true
}

// largest gives the share that holds most in entries.
func (s *Store) largest() *share {
	var most *share
	for _, sh := range s.shares {
		if most == nil || sh.used-sh.filling > most.used-most.filling {
			most = sh
		}
	}
	return most
}

// maxPassed bounds how many entries that were used the hand passes at once: the
// lock is held.
const maxPassed = 256

// evict drops one entry of a share; false is that it has none.
func (s *Store) evict(sh *share) bool {
	if sh == nil || sh.oldest == nil {
		return false
	}
	e := sh.hand
	if e == nil {
		e = sh.oldest
	}
	for n := 0; e.used.Swap(false) && n < maxPassed; n++ {
		if e = e.newer; e == nil {
			e = sh.oldest
		}
	}
	sh.hand = e
	s.remove(e) // moves the hand on
	return true
}

// The shares of what responses on their way may take: of all, and of one
// workload.
const (
	fillingAll = 4
	fillingOne = 8
)

// reserve counts n bytes more for a response on its way; false is that there is
// no room.
func (s *Store) reserve(workload string, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.take(workload)
	if s.filling+n > s.max/fillingAll || sh.filling+n > s.max/fillingOne || !s.room(sh, n) {
		s.forget(sh)
		return false
	}
	s.filling += n
	sh.filling += n
	s.used += n
	sh.used += n
	return true
}

// release takes back what reserve has counted.
func (s *Store) release(workload string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(s.unreserve(workload, n))
}

func (s *Store) unreserve(workload string, n int64) *share {
	sh := s.take(workload)
	s.filling -= n
	sh.filling -= n
	s.used -= n
	sh.used -= n
	return sh
}

// remove takes an entry out. The lock is held.
func (s *Store) remove(e *entry) {
	r := e.resource
	list := slices.DeleteFunc(slices.Clone(r.list()), func(o *entry) bool { return o == e })
	r.variants.Store(&list)
	if len(list) == 0 {
		s.unlink(r)
	}
	sh := e.share
	sh.cut(e)
	sh.used -= e.size
	s.used -= e.size
}

// unlink takes a resource out of its bucket. Whoever is walking by still finds
// what comes behind it.
func (s *Store) unlink(r *resource) {
	at := &s.bucket(r.hash).first
	for o := at.Load(); o != nil; o = at.Load() {
		if o == r {
			at.Store(r.next.Load())
			return
		}
		at = &o.next
	}
}

// push puts an entry at the newest end.
func (sh *share) push(e *entry) {
	e.older = sh.newest
	if sh.newest != nil {
		sh.newest.newer = e
	} else {
		sh.oldest = e
	}
	sh.newest = e
}

// cut takes an entry out of the queue; a hand that points there moves on.
func (sh *share) cut(e *entry) {
	if sh.hand == e {
		sh.hand = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		sh.newest = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		sh.oldest = e.newer
	}
	e.newer, e.older = nil, nil
}
