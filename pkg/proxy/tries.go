package proxy

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"sallyport/pkg/balance"
	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/http2"
	"sallyport/pkg/policy"
	"sallyport/pkg/upstream"
)

// maxBackoff bounds the wait before a try.
const maxBackoff = 10 * time.Second

// sentTime is how long the end of a request's body is waited for that an upstream
// answered before: the client is most likely sending it just now.
const sentTime = 200 * time.Millisecond

// tries are those of one request.
type tries struct {
	rule balance.Rule
	// n counts those that were begun.
	n int
	// body is what the next one may need of the request, nil without one.
	body *kept
	// Where targets stand in for the host: what the choice goes by, those that
	// were tried, and the one that is used.
	key   uint64
	tried []*balance.Target
	lease balance.Lease
}

// A tried is what became of one try: no connection (fail), no response (err), or
// a response.
type tried struct {
	fail *failure
	err  error
}

// textNoExtended is for an upstream that took extended CONNECT when it was asked.
const textNoExtended = "the upstream does not take WebSockets over HTTP/2 any more"

// send carries the request to the upstream, in as many tries as the rule has,
// until there is a response to be delivered. Without one the exchange has ended.
func (k *call) send(d *policy.Decision, r *route, opts exchange.Options, extended bool, begin time.Time) bool {
	t := &k.tries
	t.rule, t.n, t.key, t.tried = r.settings.Balance.Of(d.Index), 0, 0, t.tried[:0]
	if t.rule.Budget != nil {
		t.rule.Budget.Request(begin)
	}
	if req := &k.x.Request; t.rule.Retry != nil && req.Body != nil && idempotent(req.Method) {
		t.body = &kept{Body: req.Body, own: &k.c.share.keptBodies, all: &k.c.p.keptBodies}
		req.Body = t.body
	}
	if r.balance != nil {
		t.key = r.balance.Key(k.c.id.Name, &k.x.Request)
	}
	judged := *d
	var last tried
	for now := begin; ; now = time.Now() {
		t.n++
		to := r
		if r.balance != nil {
			var fail *failure
			judged, to, fail = k.choose(r, *d, now)
			if fail != nil && fail.reason == policy.NoHealthyTarget && (last.fail != nil || last.err != nil) {
				// What the tries met says more.
				break
			}
			last = tried{fail: fail}
		}
		if to != nil {
			k.ev.Upstream.Target = to.text
			last = k.try(to, opts, extended)
		}
		k.reportTry(last)
		if !k.again(&last, r) {
			break
		}
		k.giveLease()
	}
	k.ev.Duration.Upstream = time.Since(begin)
	*d = judged
	switch {
	case last.fail != nil && last.fail.reason == policy.ProtocolDenied:
		k.refuse(k.c.ownDecision(policy.ProtocolDenied), last.fail.text)
	case last.fail != nil:
		k.unreachable(*d, last.fail)
	case last.err != nil:
		k.roundTripFailed(*d, last.err)
	default:
		return true
	}
	return false
}

// choose takes a target for the next try and gives the route to it.
func (k *call) choose(r *route, d policy.Decision, now time.Time) (policy.Decision, *route, *failure) {
	t, u := &k.tries, r.balance
	lease, ok := balance.Lease{}, false
	if t.n == 1 {
		// The one that was asked what it speaks has waited for this request.
		lease, ok = u.Prefer(k.c.asked.Swap(nil))
	}
	if !ok {
		lease, ok = u.Pick(t.key, t.tried, now)
	}
	if !ok {
		return d, nil, noTarget(u)
	}
	t.lease = lease
	t.tried = append(t.tried, lease.Target)
	return k.work.toTarget(r, d, lease.Target, now)
}

// giveLease ends the use of a target.
func (k *call) giveLease() { k.tries.takeLease().End() }

// takeLease hands the use of a target over to whoever ends it.
func (t *tries) takeLease() balance.Lease {
	lease := t.lease
	t.lease = balance.Lease{}
	return lease
}

// dropBody ends that the request can be tried again: nobody reads its body.
func (t *tries) dropBody() {
	if t.body != nil {
		t.body.drop()
		t.body = nil
	}
}

// try carries the request once. Where a connection that was kept turns out to be
// closed, that counts as the same try.
func (k *call) try(r *route, opts exchange.Options, extended bool) tried {
	req, resp, car := &k.x.Request, &k.x.Response, &k.car
	for fresh := false; ; fresh = true {
		if fail := k.take(r, fresh); fail != nil {
			k.ev.Upstream.Attempts = max(k.ev.Upstream.Attempts, fail.attempts)
			return tried{fail: fail}
		}
		if extended && !car.extended() {
			car.release()
			return tried{fail: &failure{reason: policy.ProtocolDenied, text: textNoExtended}}
		}
		k.use(car.inUse())
		given := req.Authority
		if r.authority != "" && !k.tries.rule.Upstream.PreserveHost {
			req.Authority = r.authority
		}
		err := car.roundTrip(req, resp, opts)
		req.Authority = given
		if err == nil {
			return tried{}
		}
		car.finish(req)
		k.use(nil)
		reused := car.reused()
		car.drop()
		if !fresh && resendable(err, req.Method, reused) {
			continue
		}
		return tried{err: err}
	}
}

// stopping reports whether nobody waits for the exchange any more.
func (k *call) stopping() bool {
	return k.stream != nil && k.stream.Cancelled() || k.c.left.Load() || k.c.phase.Load() == stopped
}

// reportTry tells of the target what the try has met.
func (k *call) reportTry(last tried) {
	l := k.tries.lease
	if l.Target == nil {
		return
	}
	result := balance.TCPFailure
	switch {
	case last.fail != nil:
		if last.fail.reason == policy.ProtocolDenied {
			return
		}
		if last.fail.reason == policy.UpstreamTimeout {
			result = balance.Timeout
		}
		if k.stopping() {
			result = balance.Nothing
		}
		l.Failed(result, last.fail.text)
	case last.err != nil:
		result, why := k.blame(last.err)
		l.Failed(result, why)
	default:
		l.Answered(k.x.Response.Status)
	}
}

// blame tells what a request without a response says of its target.
func (k *call) blame(err error) (balance.Result, string) {
	var failed *exchange.RoundTripError
	var cut *http2.ResetError
	_, unwelcome := upstream.Unwelcome(err)
	switch {
	case !errors.As(err, &failed), failed.Op == "read request body", refusedIn(err) != nil, unwelcome, k.stopping():
		return balance.Nothing, ""
	case errors.As(err, &cut) && !cut.Local:
		// That stream alone; what it means is between the two ends.
		return balance.Nothing, ""
	case isTimeout(err):
		return balance.Timeout, "it did not answer in time"
	default:
		return balance.TCPFailure, "it failed before it answered: " + failed.Err.Error()
	}
}

// again reports whether the request is tried once more, and waits until then.
// What came of the last try is gone then.
func (k *call) again(last *tried, r *route) bool {
	t := &k.tries
	retry := t.rule.Retry
	if retry == nil || t.n >= retry.Attempts || k.stopping() || !k.repeatable(last, r) {
		return false
	}
	now := time.Now()
	if !t.rule.Budget.Retry(now) {
		return false
	}
	if last.fail == nil && last.err == nil {
		if body := k.x.Request.Body; body != nil && !body.Rewind() {
			t.rule.Budget.Back(now)
			return false
		}
		k.discard()
	}
	if k.wait(backoff(retry.Backoff, t.n)) {
		return true
	}
	last.fail, last.err = nil, &exchange.RoundTripError{Op: "read response", Err: exchange.ErrInterrupted}
	return false
}

// repeatable reports whether the request may be sent once more after what the
// last try met (RFC 9110 section 9.2.2). What certainly was not acted on is as
// if it had not been sent. Else it must be one that may be done twice, and whole:
// its body has not gone out, or is still in memory.
func (k *call) repeatable(last *tried, r *route) bool {
	t, req := &k.tries, &k.x.Request
	on := func(what config.RetryOn) bool { return slices.Contains(t.rule.Retry.On, what) }
	status := k.x.Response.Status
	switch {
	case last.fail != nil:
		switch last.fail.reason {
		case policy.UpstreamUnreachable, policy.UpstreamTimeout:
		case policy.UpstreamTLS, policy.AddressDenied:
			// Asking the same one again would change nothing.
			if r.balance == nil || r.balance.Len() < 2 {
				return false
			}
		default:
			return false
		}
		return on(config.RetryConnect)
	case last.err != nil:
		var failed *exchange.RoundTripError
		var bad *exchange.MalformedError
		var cut *http2.ResetError
		_, unwelcome := upstream.Unwelcome(last.err)
		late := isTimeout(last.err)
		switch {
		case !errors.As(last.err, &failed), failed.Op == "read request body", refusedIn(last.err) != nil, unwelcome:
			return false
		case !failed.Replayable && req.Body != nil:
			return false
		case failed.Unprocessed:
			return on(config.RetryConnect)
		case errors.As(last.err, &bad), errors.As(last.err, &cut) && !cut.Local:
			return false
		}
		// It stands for the status that would be the answer.
		status = policy.UpstreamUnreachable.Status()
		if late {
			status = policy.UpstreamTimeout.Status()
		}
		return idempotent(req.Method) && on(config.RetryOn(strconv.Itoa(status)))
	default:
		return status >= 400 && idempotent(req.Method) && on(config.RetryOn(strconv.Itoa(status))) &&
			(req.Body == nil || req.Length <= maxKept && k.car.sent(sentTime))
	}
}

// discard ends a try whose response nobody gets. Its connection goes on if the
// response is here already, which costs nothing to read.
func (k *call) discard() {
	if body := k.x.Response.Body; body != nil {
		if p, last := body.Buffered(); last {
			body.Discard(len(p))
		}
	}
	_ = k.part(true)
}

// backoff gives the wait after the n-th try: anything up to twice the mean, so
// that those who failed together do not come back together.
func backoff(mean time.Duration, n int) time.Duration {
	most := min(2*mean<<min(n-1, 20), maxBackoff)
	if most <= 0 {
		return 0
	}
	return rand.N(most)
}

// wait waits; false means that the exchange was stopped meanwhile.
func (k *call) wait(d time.Duration) bool {
	if d <= 0 {
		return !k.stopping()
	}
	p := new(pause)
	k.use(p)
	defer k.use(nil)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return !k.stopping()
	case <-p.Done():
		return false
	case <-k.c.context().Done():
		return false
	}
}
