package proxy

import (
	"context"
	"errors"
	"io"
	"time"

	"sallyport/pkg/audit"
	"sallyport/pkg/exchange"
	"sallyport/pkg/metrics"
	"sallyport/pkg/policy"
)

const (
	// maxRepeats bounds the requests that are repeated apart at one time, half of
	// them for one workload. Beyond, a stage does without.
	maxRepeats = 64
	// repeatTime bounds each of them.
	repeatTime = time.Minute
)

// repeat sends a request to the upstream that a stage has answered and asks for
// all the same, as an exchange of its own that nobody waits for, and
// reports whether it does. The connection on which it came ends after it.
func (k *call) repeat(d policy.Decision, r *route) bool {
	prepare := k.x.Repeated()
	if prepare == nil || r == nil || k.c.p.draining.Load() || !k.c.takeRepeat() {
		return false
	}
	p := k.c.p
	c := &conn{p: p, flow: k.c.flow, id: k.c.id, who: k.c.who, opened: time.Now(), count: k.c.count, share: k.c.share, ev: *k.ev}
	c.work.c = c
	x := p.exchanges.Get()
	x.Request.CopyFrom(&k.x.Request)
	x.Subject = k.x.Subject
	x.Subject.Time = c.opened
	k.stages.Resume(x)
	prepare(x)
	own, way := *k.h, *r
	own.conn, own.prefix, own.failed = nil, nil, nil
	again := &call{c: c, h: &own, client: &nobody{p}, x: x, ev: &c.ev, work: &c.work, stages: k.stages, ctx: &pause{}}
	e := &c.ev
	e.Time, e.ID, e.Message = c.opened, "", ""
	e.Duration, e.Counters, e.Upstream = audit.Duration{}, audit.Counters{}, audit.Upstream{}
	e.HTTP.Status, e.HTTP.RequestBytes, e.HTTP.ResponseBytes = 0, 0, 0
	k.c.background.Go(func() {
		defer k.c.giveRepeat()
		defer func() {
			if r := recover(); r != nil {
				p.panicked(r)
			}
		}()
		again.runAlone(d, &way)
	})
	return true
}

// runAlone carries an exchange whose connection is nothing but its record.
func (k *call) runAlone(d policy.Decision, r *route) {
	c := k.c
	stop := func() {
		c.phase.Store(stopped)
		c.interruptUpstream()
	}
	late := time.AfterFunc(repeatTime, stop)
	defer late.Stop()
	defer context.AfterFunc(c.p.hard, stop)()
	k.forward(d, r)
	c.background.Wait()
	c.p.exchanges.Put(k.x)
	up := c.leg.Totals()
	c.count.LegClosed(metrics.UpstreamLeg, up.BytesSent, up.BytesReceived, up.Retransmits, up.RTT)
}

// takeRepeat counts a repeated request; false is that there are too many.
func (c *conn) takeRepeat() bool {
	return reserve(&c.share.repeats, &c.p.repeats, 1, maxRepeats/2, maxRepeats)
}

// giveRepeat takes back one that takeRepeat has counted.
func (c *conn) giveRepeat() {
	release(&c.share.repeats, &c.p.repeats, 1)
}

// nobody is a client that takes whatever comes, so that stages see it pass by.
type nobody struct{ p *Proxy }

var _ client = (*nobody)(nil)

// WriteInformational implements client.
func (*nobody) WriteInformational(*exchange.Request, *exchange.Response) error { return nil }

// CloseAfter implements client.
func (*nobody) CloseAfter() {}

// WriteResponse implements client. A body that no stage wants is left where it
// is, which spoils its connection and nothing else.
func (n *nobody) WriteResponse(_ *exchange.Request, resp *exchange.Response) (sent int64, err error) {
	if resp.Body == nil {
		return 0, nil
	}
	buf := n.p.buffers.Get().(*[]byte)
	defer n.p.buffers.Put(buf)
	for {
		m, err := resp.Body.Read(*buf)
		sent += int64(m)
		switch {
		case err == io.EOF, errors.Is(err, exchange.ErrUnwanted):
			return sent, nil
		case err != nil:
			return sent, &exchange.SourceError{Err: err}
		}
	}
}
