package throttle

import "time"

// A leak is a leaking bucket with the integer arithmetic of nginx's limit_req:
// thousandths of a request, milliseconds.
type leak struct {
	// rate is in thousandths of a request a second, burst and delay in thousandths
	// of a request.
	rate, burst, delay int64
}

// newLeak gives requests in per, which is a second or a minute.
func newLeak(requests int64, per time.Duration, burst, delay int64) leak {
	// As nginx, which has 16 for 1r/m.
	return leak{rate: requests * 1000 / int64(per/time.Second), burst: burst * 1000, delay: delay * 1000}
}

// A level is how full a bucket is: excess thousandths at last, in ms. The zero
// value is a bucket that nobody has used.
type level struct {
	excess, last int64
	used         bool
}

// next gives how full the bucket would be after a request at now.
func (l *leak) next(v level, now int64) int64 {
	if !v.used {
		return 0
	}
	ms := elapsed(v, now)
	if ms > (v.excess+1000)*1000/l.rate {
		return 0 // it ran empty, maybe so long ago that the product below overflows
	}
	return max(0, v.excess-l.rate*ms/1000+1000)
}

// elapsed is since the last request that was counted, 0 where the clock went
// back.
func elapsed(v level, now int64) int64 { return max(0, now-v.last) }

// admits reports whether a request that leaves that excess is admitted.
func (l *leak) admits(excess int64) bool { return excess <= l.burst }

// wait gives for how long a request that leaves that excess is held back.
func (l *leak) wait(excess int64) time.Duration {
	if excess <= l.delay {
		return 0
	}
	return time.Duration((excess-l.delay)*1000/l.rate) * time.Millisecond
}

// retry gives after how long a request that was refused with that excess would be
// admitted.
func (l *leak) retry(excess int64) time.Duration {
	return time.Duration((excess-l.burst)*1000/l.rate+1) * time.Millisecond
}
