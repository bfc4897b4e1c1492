// Package keyed keeps something for each key of a rule: a counter for each
// workload, host or value of a header field. Looking up takes no lock; what is
// kept has a lock of its own, which only those share who have the same key.
package keyed

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
)

// Max bounds the keys of one table, and MaxShare those for which the requests of
// one workload have made room: who can invent keys must leave some to others.
// With as many, those are taken out that have ended, and if there is none a
// further key has no place: its request must be refused, because it would have no
// limit.
const (
	Max      = 32768
	MaxShare = Max / 2
)

// Key gives what of the exchange is counted apart. Values of header fields may
// be secrets: the key is their hash. A request without the field counts for its
// workload.
func Key(by config.CounterKey, x *exchange.Exchange) string {
	switch by.By {
	case config.ByWorkload:
		return x.Subject.Workload
	case config.ByHost:
		return x.Subject.Host
	case config.ByHeader:
		return headerKey(by.Header, x)
	default:
		return ""
	}
}

func headerKey(name string, x *exchange.Exchange) string {
	var all []byte
	found := false
	for value := range x.Request.Header.Values(name) {
		if found {
			all = append(all, 0) // no value holds one
		}
		all = append(all, value...)
		found = true
	}
	if !found {
		return "-" + x.Subject.Workload
	}
	sum := sha256.Sum256(all)
	return "=" + hex.EncodeToString(sum[:16])
}

// An Entry is what is kept for one key.
type Entry[T any] struct {
	Key string
	// Owner is the workload whose request made it.
	Owner string
	// Value is read and changed between Lock and Unlock.
	Value T

	hash uint64
	next atomic.Pointer[Entry[T]]
	mu   sync.Mutex
	dead bool
}

// Lock locks the value. It fails where the entry was taken out of its table:
// what is done to it then is lost, and Get gives another.
func (e *Entry[T]) Lock() bool {
	e.mu.Lock()
	if e.dead {
		e.mu.Unlock()
		return false
	}
	return true
}

// Unlock unlocks the value.
func (e *Entry[T]) Unlock() { e.mu.Unlock() }

// A Table has an entry for each key.
type Table[T any] struct {
	seed    maphash.Seed
	chains  []atomic.Pointer[Entry[T]]
	entries atomic.Int64

	mu sync.Mutex
	// shares counts the entries of each owner.
	shares map[string]int
	// swept is when it was last swept because it was full.
	swept int64
	// ended says what may be taken out.
	ended func(value *T, now int64) bool
}

// New gives an empty table for keys of that kind. ended reports of a value that
// it is as good as none now.
func New[T any](by config.CounterBy, ended func(value *T, now int64) bool) *Table[T] {
	chains := 256
	switch by {
	case config.ByRule:
		chains = 1
	case config.ByHeader:
		chains = 4096
	}
	return &Table[T]{seed: maphash.MakeSeed(), chains: make([]atomic.Pointer[Entry[T]], chains), shares: make(map[string]int), ended: ended, swept: -1}
}

// SetEnded changes what says that a value is as good as none.
func (t *Table[T]) SetEnded(ended func(value *T, now int64) bool) {
	t.mu.Lock()
	t.ended = ended
	t.mu.Unlock()
}

// Len gives the number of keys, at most Max.
func (t *Table[T]) Len() int { return int(t.entries.Load()) }

// full reports whether a further key of the owner has no place. The lock is held.
func (t *Table[T]) full(owner string) bool { return t.Len() >= Max || t.shares[owner] >= MaxShare }

// Fullest tells how full the fullest of some tables is, in keys of Max: one in
// which a workload has its share is full, if only for that one.
func Fullest[K comparable, T any](tables map[K]*Table[T]) int {
	most := 0
	for _, t := range tables {
		most = max(most, t.Len())
		t.mu.Lock()
		for _, n := range t.shares {
			most = max(most, n*(Max/MaxShare))
		}
		t.mu.Unlock()
	}
	return most
}

func (t *Table[T]) find(key string, hash uint64) *Entry[T] {
	for e := t.chains[hash%uint64(len(t.chains))].Load(); e != nil; e = e.next.Load() {
		if e.hash == hash && e.Key == key {
			return e
		}
	}
	return nil
}

// Get gives the entry of the key, and makes it for the owner, a workload, where
// there is none; nil where the table is full. now is in seconds of the clock that
// ended knows.
func (t *Table[T]) Get(key, owner string, now int64) *Entry[T] {
	hash := maphash.String(t.seed, key)
	if e := t.find(key, hash); e != nil {
		return e
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.find(key, hash); e != nil {
		return e
	}
	if t.full(owner) {
		// Once a second, so that a full table is not searched for each request.
		if t.swept == now {
			return nil
		}
		t.swept = now
		if t.sweep(now, t.ended); t.full(owner) {
			return nil
		}
	}
	e := &Entry[T]{Key: key, Owner: owner, hash: hash}
	chain := &t.chains[hash%uint64(len(t.chains))]
	e.next.Store(chain.Load())
	chain.Store(e)
	t.entries.Add(1)
	t.shares[owner]++
	return e
}

// Sweep takes out the entries that have ended; nil ended: by what the table has.
func (t *Table[T]) Sweep(now int64, ended func(value *T, now int64) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ended == nil {
		ended = t.ended
	}
	t.sweep(now, ended)
}

func (t *Table[T]) sweep(now int64, ended func(value *T, now int64) bool) {
	for i := range t.chains {
		for at := &t.chains[i]; at.Load() != nil; {
			e := at.Load()
			e.mu.Lock()
			e.dead = ended(&e.Value, now)
			e.mu.Unlock()
			if e.dead {
				at.Store(e.next.Load())
				t.entries.Add(-1)
				if t.shares[e.Owner]--; t.shares[e.Owner] == 0 {
					delete(t.shares, e.Owner)
				}
			} else {
				at = &e.next
			}
		}
	}
}

// Each calls f with every entry, locked.
func (t *Table[T]) Each(f func(*Entry[T])) {
	for i := range t.chains {
		for e := t.chains[i].Load(); e != nil; e = e.next.Load() {
			e.mu.Lock()
			f(e)
			e.mu.Unlock()
		}
	}
}
