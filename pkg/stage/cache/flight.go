package cache

import (
	"sync"
	"time"
)

// flights are the requests on their way for which others wait (RFC 9111 section
// 4 calls it collapsing), and what is known not to be worth waiting for.
type flights struct {
	mu   sync.Mutex
	open map[digest]*flight
	// passes tells until when the answers to a key are known to serve nobody
	// else: then nobody waits for the other.
	passes map[digest]time.Time
}

const (
	// maxPasses bounds what is remembered of answers that serve nobody else; of
	// more, any one is forgotten, and costs one request that waits.
	maxPasses = 4096
	passTime  = 2 * time.Minute
)

// A flight is one request on its way.
type flight struct {
	key  digest
	done chan struct{}
}

func newFlights() flights {
	return flights{open: make(map[digest]*flight), passes: make(map[digest]time.Time)}
}

// join gives the flight for a key. leads says that it is the caller's, who must
// land it; nil is that nobody leads and nobody waits.
func (f *flights) join(key digest, now time.Time) (_ *flight, leads bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if until, ok := f.passes[key]; ok {
		if now.Before(until) {
			return nil, false
		}
		delete(f.passes, key)
	}
	if fl := f.open[key]; fl != nil {
		return fl, false
	}
	fl := &flight{key: key, done: make(chan struct{})}
	f.open[fl.key] = fl
	return fl, true
}

// land ends a flight and lets those go on who wait for it. useless says that
// its answer serves nobody else, and the next ones probably neither.
func (f *flights) land(fl *flight, useless bool) {
	f.mu.Lock()
	delete(f.open, fl.key)
	if useless {
		if len(f.passes) >= maxPasses {
			for key := range f.passes {
				delete(f.passes, key)
				break
			}
		}
		f.passes[fl.key] = time.Now().Add(passTime)
	}
	f.mu.Unlock()
	close(fl.done)
}

// sweep forgets what has passed.
func (f *flights) sweep(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, until := range f.passes {
		if !now.Before(until) {
			delete(f.passes, key)
		}
	}
}
