package cache

import (
	"slices"

	"sallyport/pkg/exchange"
)

// A fill copies a body that passes by and stores it at its clean end. It never
// holds the body up: what becomes too large, or has no room, is passed on and
// not stored.
type fill struct {
	stage    *Stage
	passage  *passage
	entry    *entry
	workload string
	trailer  *exchange.Header
	// length is the declared one, negative for none.
	length int64

	body     []byte
	reserved int64
	over     bool
}

var _ exchange.Watcher = (*fill)(nil)

// firstRoom is how much is reserved for a body of unknown length at first.
const firstRoom = 8 << 10

// Watch implements exchange.Watcher.
func (f *fill) Watch(p []byte, last bool) error {
	if !f.over && !f.grow(len(p)) {
		f.abandon(true)
	}
	switch {
	case f.over && f.passage.again:
		return exchange.ErrUnwanted
	case f.over:
		return nil
	}
	f.body = append(f.body, p...)
	if last {
		f.finish()
	}
	return nil
}

// grow makes room for n more bytes; false is that there is none.
func (f *fill) grow(n int) bool {
	need := len(f.body) + n
	limit := int(f.stage.rule.MaxBody)
	if need > limit {
		return false
	}
	if need <= cap(f.body) {
		return true
	}
	// Room is taken as bytes come, so that what is announced and never sent
	// takes none.
	room := max(need, 2*cap(f.body), firstRoom)
	if f.length >= 0 {
		limit = min(limit, int(f.length))
	}
	room = max(min(room, limit), need)
	if !f.stage.store.reserve(f.workload, int64(room)-f.reserved) {
		return false
	}
	f.reserved = int64(room)
	body := make([]byte, len(f.body), room)
	copy(body, f.body)
	f.body = body
	return true
}

// finish stores a body that has come to its end. Trailers would have to be sent
// again with it, and not every client could take them.
func (f *fill) finish() {
	if f.trailer.Len() > 0 {
		f.abandon(true)
		return
	}
	f.over = true
	if waste := cap(f.body) - len(f.body); waste > len(f.body)/8 {
		f.body = slices.Clone(f.body)
	}
	f.entry.hold(slices.Clip(f.body))
	s, p := f.stage, f.passage
	reserved := f.reserved
	f.body, f.reserved = nil, 0
	ok := s.store.put(f.workload, p.hash, p.key, f.entry, reserved, p.epoch)
	s.land(p, !ok || !f.entry.fresh(s.now()))
}

// abandon gives up what was not stored. useless says that the next answers will
// probably not be stored either.
func (f *fill) abandon(useless bool) {
	if f.over {
		return
	}
	f.over = true
	if f.reserved > 0 {
		f.stage.store.release(f.workload, f.reserved)
	}
	f.body, f.reserved = nil, 0
	f.stage.land(f.passage, useless)
}
