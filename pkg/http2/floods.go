package http2

import "time"

// A limit is how much of something a peer may do: so many at once, and so many
// a second on the average.
type limit struct{ burst, perSecond int }

// A bucket counts against a limit. The clock is asked only at the limit.
type bucket struct {
	n     int
	since time.Time
}

// take counts one and reports whether that is too many.
func (b *bucket) take(l limit) bool {
	if b.n++; b.n <= l.burst {
		return false
	}
	now := time.Now()
	if b.since.IsZero() {
		// Not known when the burst began: nothing has been earned.
		b.since = now
		return true
	}
	earned := int(now.Sub(b.since).Seconds() * float64(l.perSecond))
	b.since = now
	b.n = max(b.n-earned, 0)
	return b.n > l.burst
}

// give takes back what was earned by something useful.
func (b *bucket) give(n int) { b.n = max(b.n-n, 0) }

// floods counts what costs us more than the peer. Resets, PINGs, window updates and
// tiny frames are counted under the connection's lock, the rest by the reading
// goroutine.
type floods struct{ resets, sets, pings, blanks, others, updates, tinies bucket }

// begin starts the time in which allowances are earned.
func (f *floods) begin(now time.Time) {
	for _, b := range []*bucket{&f.resets, &f.sets, &f.pings, &f.blanks, &f.others, &f.updates, &f.tinies} {
		b.since = now
	}
}

// reset counts a stream that ended by RST_STREAM before it was served, whoever
// sent it. Cancelling a burst of calls is usual for gRPC; a stream that was
// served allows one more, so who is served as fast as it resets goes on.
func (f *floods) reset() error {
	if f.resets.take(limit{400, 20}) {
		return flood(RapidReset, "streams reset faster than they are served")
	}
	return nil
}

// served takes note of a stream that went to its end.
func (f *floods) served() { f.resets.give(1) }

func (f *floods) settings() error {
	if f.sets.take(limit{100, 2}) {
		return flood(SettingsFlood, "too many SETTINGS")
	}
	return nil
}

func (f *floods) ping() error {
	if f.pings.take(limit{1000, 50}) {
		return flood(PingFlood, "too many PING")
	}
	return nil
}

func (f *floods) empty() error {
	if f.blanks.take(limit{500, 20}) {
		return flood(EmptyFrames, "too many DATA frames without content")
	}
	return nil
}

func (f *floods) useless() error {
	if f.others.take(limit{5000, 200}) {
		return flood(UselessFrames, "too many frames that mean nothing")
	}
	return nil
}

func (f *floods) windowUpdate() error {
	if f.updates.take(limit{10000, 1000}) {
		return flood(WindowUpdateFlood, "too many WINDOW_UPDATE")
	}
	return nil
}

// useful takes note of a frame that carries a message: peers measure the path
// by PING and open windows for it.
func (f *floods) useful() {
	f.pings.give(1)
	f.updates.give(2)
	f.others.give(1)
}

// answered takes note of a DATA frame of ours, for which the peer may open
// windows, and measure the path: clients of gRPC send a PING for each burst that
// they receive.
func (f *floods) answered() {
	f.updates.give(2)
	f.pings.give(1)
}

func (f *floods) tiny() bool { return f.tinies.take(limit{2000, 100}) }
