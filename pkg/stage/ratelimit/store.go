package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// snapshotInterval is how often counters are written at most, and what a
	// killed process may have counted in vain.
	snapshotInterval = 200 * time.Millisecond
	// snapshotShare is the part of the time that writing may take, so that many
	// keys are written more rarely, but at least each longestInterval.
	snapshotShare   = 20
	longestInterval = time.Second
)

// A Store keeps counters in a file, so that they outlive this process.
type Store struct {
	counters *Counters
	file     *os.File
	log      *zap.Logger
	serial   uint64
	buffer   []byte
	failed   bool

	mu sync.Mutex
	// closed says that the file is no longer ours.
	closed bool
}

// OpenStore makes the file the place of the counters: those that it holds and
// that have not ended go on. The file is the Store's in every case. The error
// says what of it could not be read; the Store is good all the same.
func OpenStore(counters *Counters, file *os.File, log *zap.Logger, now time.Time) (*Store, error) {
	s, serial, err := load(file)
	if s != nil {
		counters.restore(s, now.Unix())
	}
	if err != nil {
		err = fmt.Errorf("counters of rate limits: %w: what was counted there begins anew", err)
	}
	return &Store{counters: counters, file: file, log: log, serial: serial}, err
}

// Run writes what has changed until ctx ends.
func (k *Store) Run(ctx context.Context) error {
	pause := snapshotInterval
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		begin := time.Now()
		k.write(begin)
		pause = min(max(snapshotInterval, snapshotShare*time.Since(begin)), longestInterval)
	}
}

// Close writes the last snapshot: nothing is written after it, so that the file
// may be another process's from then on. A second call does nothing.
func (k *Store) Close() error {
	k.write(time.Now())
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil
	}
	k.closed = true
	return errors.Join(k.file.Sync(), k.file.Close())
}

// write writes a snapshot if something has changed. Counters that cannot be
// written go on in memory: refusing all requests would not count better.
func (k *Store) write(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || !k.counters.changed.Swap(false) {
		return
	}
	s := k.counters.save(now.Unix())
	s.tables = s.tables[:min(len(s.tables), maxTables)]
	k.buffer = s.encode(append(k.buffer[:0], make([]byte, headerSize)...))
	for len(k.buffer) > slotSize && len(s.tables) > 0 {
		// The largest are last: those that count by names are kept.
		s.tables = s.tables[:len(s.tables)-1]
		k.buffer = s.encode(k.buffer[:headerSize])
	}
	k.serial++
	_, err := k.file.WriteAt(seal(k.buffer, k.serial), int64(k.serial%2)*slotSize)
	if err != nil {
		k.counters.changed.Store(true)
		if !k.failed {
			k.log.Error("counters of rate limits are not written and would not outlive a restart", zap.Error(err))
		}
	}
	k.failed = err != nil
}

// save gives the counters that go on.
func (s *Counters) save(now int64) *snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &snapshot{}
	for key, t := range s.tables {
		saved := savedTable{key: key}
		t.Each(func(e *counter) {
			c := &e.Value
			if c.ended(now) {
				return
			}
			one := savedCounter{key: e.Key, owner: e.Owner, life: c.memory.life}
			for w := range windows {
				if now < c.counts[w].start+lengths[w] {
					one.counts[w], one.extra[w] = c.counts[w], c.memory.extra[w]+c.memory.told[w]
				}
			}
			saved.counters = append(saved.counters, one)
		})
		if len(saved.counters) > 0 {
			out.tables = append(out.tables, saved)
		}
	}
	slices.SortFunc(out.tables, func(a, b savedTable) int {
		return cmp.Or(cmp.Compare(len(a.counters), len(b.counters)), cmp.Compare(a.key.rule, b.key.rule))
	})
	return out
}

// restore puts back what save gave and goes on.
func (s *Counters) restore(saved *snapshot, now int64) {
	for i := range saved.tables {
		from := &saved.tables[i]
		if len(from.counters) == 0 {
			continue
		}
		t := newTable(from.key.by.By)
		for j := range from.counters {
			o := &from.counters[j]
			e := t.Get(o.key, o.owner, now)
			if e == nil {
				continue // no file of ours holds more than a table
			}
			c := &e.Value
			c.counts, c.memory.extra, c.memory.life = o.counts, o.extra, o.life
			for w := range windows {
				c.counts[w].roll(now, lengths[w])
				if c.counts[w].start != o.counts[w].start {
					c.memory.extra[w] = 0
				}
			}
			// Redis may have lost what it had meanwhile.
			c.memory.outage = ^uint64(0)
		}
		s.mu.Lock()
		s.tables[from.key] = t
		s.mu.Unlock()
	}
	s.Sweep(time.Unix(now, 0))
}
