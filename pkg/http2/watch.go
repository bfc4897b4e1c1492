package http2

import "time"

// A watch is the one timer of a connection. It goes off at the earliest time at
// which something may be overdue; since times of one kind come in their order,
// it is hardly ever set anew.
type watch struct {
	timer *time.Timer
	next  time.Time // zero: not set
	done  bool
}

// at has the connection looked at at that time. The lock is held.
func (w *watch) at(c *conn, t time.Time) {
	if w.done || !w.next.IsZero() && !t.Before(w.next) {
		return
	}
	w.next = t
	d := time.Until(t)
	if w.timer == nil {
		w.timer = time.AfterFunc(d, c.look)
		return
	}
	w.timer.Reset(d)
}

// stop ends the watch. The lock is held.
func (w *watch) stop() {
	w.done = true
	if w.timer != nil {
		w.timer.Stop()
	}
}

// look ends what is overdue and sets the timer for the rest.
func (c *conn) look() {
	c.mu.Lock()
	defer c.unlock()
	if c.watch.done {
		return
	}
	now := time.Now()
	c.watch.next = time.Time{}
	var next time.Time
	due := func(t time.Time) bool {
		if t.IsZero() {
			return false
		}
		if !t.After(now) {
			return true
		}
		if next.IsZero() || t.Before(next) {
			next = t
		}
		return false
	}
	for _, s := range c.streams {
		if due(s.headerAt) {
			s.reset(Cancel, ErrHeaderTimeout)
			continue
		}
		if due(s.stallAt) {
			c.codec.counters.add(TinyWindow)
			s.reset(Cancel, ErrStalled)
		}
	}
	if c.srv != nil {
		c.srv.look(due)
	}
	c.flushSoon()
	if !next.IsZero() && !c.watch.done {
		c.watch.at(c, next)
	}
}
