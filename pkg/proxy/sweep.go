package proxy

import (
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/upstream"
)

// pace is how often open connections are looked at: often enough for the
// shortest timeout, at most once a second.
func (p *Proxy) pace() time.Duration {
	t := p.settings.Load().Timeouts
	least := p.Limits.Head
	for _, d := range []time.Duration{t.Idle, t.StreamIdle} {
		if d > 0 {
			least = min(least, d)
		}
	}
	return min(max(least/4, 5*time.Millisecond), time.Second)
}

// sweep ends what has waited too long. It is one goroutine's look at atomic
// fields in place of two timer changes per request and connection.
func (p *Proxy) sweep(now time.Time) {
	idle := p.settings.Load().Timeouts.Idle
	at := now.Sub(p.start)
	p.each(func(c *conn) {
		age := at - time.Duration(c.since.Load())
		switch c.phase.Load() {
		case waiting:
			if age > idle {
				c.stopIdle()
			}
		case reading:
			if age > p.Limits.Head && c.phase.CompareAndSwap(reading, stopped) {
				c.tcp.SetDeadline(time.Unix(1, 0))
			}
		case running:
			c.look(age)
			c.lookAtStreams()
		}
	})
}

// lookAtStreams ends what has been silent for too long in HTTP/2.
func (c *conn) lookAtStreams() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		c.session.look()
	}
}

// look asks the kernel about a running exchange or tunnel: a stream may be
// silent for hours, but not for longer than it may, and not for nobody.
func (c *conn) look(age time.Duration) {
	quiet := time.Duration(c.quiet.Load())
	if age < time.Second && (quiet == 0 || age < quiet) {
		return
	}
	info, err := upstream.ReadTCPInfo(c.raw)
	if err != nil {
		return
	}
	silence := silenceOf(info)
	switch {
	case c.gone(info.State, silence):
		c.left.Store(true)
		c.interrupt()
	case quiet > 0 && age > quiet && silence > quiet && c.upstreamSilence() > quiet:
		c.interrupt()
	}
}

// silenceOf is how long no data have passed either way.
func silenceOf(info *unix.TCPInfo) time.Duration {
	return time.Duration(min(info.Last_data_sent, info.Last_data_recv)) * time.Millisecond
}

// upstreamSilence is that of the upstream leg; without one, for ever.
func (c *conn) upstreamSilence() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.up == nil {
		return 1<<63 - 1
	}
	d, err := c.up.Silence()
	if err != nil {
		return 1<<63 - 1
	}
	return d
}
