package proxy

import (
	"errors"
	"io"
	"time"

	"sallyport/pkg/exchange"
	"sallyport/pkg/http2"
	"sallyport/pkg/policy"
	"sallyport/pkg/upstream"
)

// serveHTTP answers the requests of one hop of HTTP/1 until it ends or becomes
// something else.
func (c *conn) serveHTTP(h *hop) {
	sc := c.p.codec.Server(h.conn)
	k := &call{c: c, h: h, client: sc, http1: sc, ev: &c.ev, work: &c.work}
	detached := false
	defer func() {
		if detached {
			return
		}
		lingers := c.enter(reading, time.Now())
		c.measure()
		if lingers {
			sc.Close()
		} else {
			sc.CloseNow()
		}
	}()
	for {
		if !c.enter(waiting, time.Now()) {
			return
		}
		if c.p.draining.Load() && !c.p.yielding.Load() {
			c.stopIdle()
		}
		now, ok := c.next(h, sc)
		if !ok {
			return
		}
		k.x = c.p.exchanges.Get()
		next := k.read(now)
		c.p.exchanges.Put(k.x)
		k.x = nil
		if next == nil {
			if sc.Finish() {
				continue
			}
			return
		}
		detached = true
		next(h)
		return
	}
}

// read reads a request of HTTP/1 and runs it.
func (k *call) read(now time.Time) after {
	err := k.http1.ReadRequest(&k.x.Request)
	k.begin(now)
	if err != nil {
		k.requestFailed(err)
		return nil
	}
	return k.run(now)
}

// readFailed ends a connection whose next request cannot be read. A client of
// TLS 1.3 may say only now that it does not trust us.
func (c *conn) readFailed(h *hop, err error) {
	if h.secure && rejected(err) {
		c.recordRejected(h, err)
	}
}

// requestFailed ends a connection whose request could not be read, with an
// answer if it was read and is wrong.
func (k *call) requestFailed(err error) {
	var bad *exchange.MalformedError
	if errors.As(err, &bad) {
		k.answer(bad.Refusal(), k.c.ownDecision(policy.MalformedRequest))
		return
	}
	k.c.readFailed(k.h, err)
	k.client.CloseAfter()
}

// roundTripFailed answers a request that got no response.
func (k *call) roundTripFailed(d policy.Decision, err error) {
	k.ev.HTTP.RequestBytes = transferred(&k.x.Request)
	var failed *exchange.RoundTripError
	if !errors.As(err, &failed) {
		if errors.Is(err, exchange.ErrInvalidField) {
			// Nothing that the parser let through comes here.
			k.answer(&exchange.Refusal{Reason: policy.MalformedRequest, Message: "the request cannot be written for the upstream"}, k.c.ownDecision(policy.MalformedRequest))
			return
		}
		// The client did not take an interim response: it is gone.
		k.client.CloseAfter()
		k.end(d, "the workload is gone")
		return
	}
	var bad *exchange.MalformedError
	var cut *http2.ResetError
	unwelcome, isUnwelcome := upstream.Unwelcome(err)
	refusal := refusedIn(err)
	switch {
	case k.stream != nil && k.stream.Cancelled():
		k.end(d, "the workload cancelled the request")
	case k.c.left.Load():
		k.client.CloseAfter()
		k.end(d, textGone)
	case k.c.phase.Load() == stopped || k.c.p.hard.Err() != nil:
		k.client.CloseAfter()
		k.end(d, "the exchange was stopped")
	case refusal != nil:
		k.answer(refusal, d)
	case failed.Op == "read request body" && errors.As(err, &bad):
		k.answer(bad.Refusal(), k.c.ownDecision(policy.MalformedRequest))
	case failed.Op == "read request body":
		k.client.CloseAfter()
		k.end(d, "the workload cut the request: "+failed.Err.Error())
	case isUnwelcome:
		k.unreachable(d, &failure{reason: policy.UpstreamTLS, text: unwelcome})
	case k.stream != nil && errors.As(err, &cut) && !cut.Local:
		// What the upstream said to the stream is said to the client's: gRPC
		// tells a deadline from a failure by it.
		k.stream.Reset(cut.Code)
		k.end(d, "the upstream reset the stream: "+cut.Code.String())
	case isTimeout(err):
		k.unreachable(d, &failure{reason: policy.UpstreamTimeout, text: "the upstream did not answer within " + d.Timeouts.ResponseHeader.String()})
	case errors.As(err, &bad):
		k.unreachable(d, &failure{reason: policy.UpstreamUnreachable, text: "the upstream's answer is not valid HTTP: " + bad.Text})
	case errors.Is(err, io.ErrUnexpectedEOF):
		k.unreachable(d, &failure{reason: policy.UpstreamUnreachable, text: "the upstream closed the connection before it answered"})
	default:
		k.unreachable(d, &failure{reason: policy.UpstreamUnreachable, text: "the upstream failed before it answered: " + failed.Err.Error()})
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
