package throttle

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestLeak: what nginx 1.22's ngx_http_limit_req_module decides, worked through
// by hand from its source.
func TestLeak(t *testing.T) {
	type step struct{ at, excess, wait int64 } // ms; wait -1: refused
	for _, tt := range []struct {
		name  string
		leak  leak
		steps []step
	}{
		{"no burst", newLeak(10, time.Second, 0, 0), []step{{0, 0, 0}, {0, 1000, -1}, {99, 10, -1}, {100, 0, 0}, {199, 10, -1}, {200, 0, 0}, {5000, 0, 0}}},
		{"burst, delayed", newLeak(10, time.Second, 2, 0), []step{{0, 0, 0}, {0, 1000, 100}, {0, 2000, 200}, {0, 3000, -1}, {50, 2500, -1}, {100, 2000, 200}, {1000, 0, 0}}},
		{"nodelay", newLeak(10, time.Second, 2, 2), []step{{0, 0, 0}, {0, 1000, 0}, {0, 2000, 0}, {0, 3000, -1}, {100, 2000, 0}}},
		{"delay 1", newLeak(10, time.Second, 3, 1), []step{{0, 0, 0}, {0, 1000, 0}, {0, 2000, 100}, {0, 3000, 200}, {0, 4000, -1}}},
		{"a minute, which rounds down", newLeak(1, time.Minute, 1, 0), []step{{0, 0, 0}, {0, 1000, 62500}, {60000, 1040, -1}, {62500, 1000, 62500}}},
		{"30r/m", newLeak(30, time.Minute, 0, 0), []step{{0, 0, 0}, {1999, 1, -1}, {2000, 0, 0}}},
		{"the highest rate, after a century", newLeak(1e9, time.Second, 1, 1), []step{{0, 0, 0}, {0, 1000, 0}, {3e12, 0, 0}}},
		{"a clock that goes back", newLeak(10, time.Second, 1, 1), []step{{1000, 0, 0}, {900, 1000, 0}, {1000, 2000, -1}, {1100, 1000, 0}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var v level
			for i, s := range tt.steps {
				excess := tt.leak.next(v, s.at)
				wait := int64(-1)
				if tt.leak.admits(excess) {
					wait = tt.leak.wait(excess).Milliseconds()
					if v.excess = excess; !v.used || s.at > v.last {
						v.last = s.at
					}
					v.used = true
				}
				if excess != s.excess || wait != s.wait {
					t.Errorf("step %d at %d: excess %d, wait %d; want %d, %d", i, s.at, excess, wait, s.excess, s.wait)
				}
			}
		})
	}
}

// nginxLimitReq is ngx_http_limit_req_lookup and ngx_http_limit_req_account of
// nginx 1.22 for one limit, line by line.
type nginxLimitReq struct {
	known        bool
	excess, last int64
}

func (lr *nginxLimitReq) request(now, rate, burst, delay int64) (busy bool, wait int64) {
	if !lr.known {
		*lr = nginxLimitReq{known: true, last: now}
		return false, 0
	}
	ms := now - lr.last
	if ms < -60000 {
		ms = 1
	} else if ms < 0 {
		ms = 0
	}
	excess := lr.excess - rate*ms/1000 + 1000
	if excess < 0 {
		excess = 0
	}
	if excess > burst {
		return true, 0
	}
	lr.excess = excess
	if ms != 0 {
		lr.last = now
	}
	if excess <= delay {
		return false, 0
	}
	return false, (excess - delay) * 1000 / rate
}

func TestLeakAsNginx(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		per := rapid.SampledFrom([]time.Duration{time.Second, time.Minute}).Draw(t, "per")
		requests := rapid.Int64Range(1, 5000).Draw(t, "requests")
		burst := rapid.Int64Range(0, 50).Draw(t, "burst")
		delay := rapid.Int64Range(0, 60).Draw(t, "delay")
		scale := int64(per / time.Second)
		l := newLeak(requests, per, burst, delay)
		var v level
		var theirs nginxLimitReq
		now := int64(0)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += rapid.OneOf(rapid.Int64Range(0, 5), rapid.Int64Range(0, 3000)).Draw(t, "gap")
			excess := l.next(v, now)
			busy, wait := theirs.request(now, requests*1000/scale, burst*1000, delay*1000)
			if l.admits(excess) == busy {
				t.Fatalf("at %d: excess %d of %d, nginx busy: %v", now, excess, l.burst, busy)
			}
			if busy {
				if r := l.retry(excess).Milliseconds(); !l.admits(l.next(v, now+r)) {
					t.Fatalf("at %d: would be refused again after %d ms", now, r)
				}
				continue
			}
			if got := l.wait(excess).Milliseconds(); got != wait {
				t.Fatalf("at %d: waits %d ms, nginx %d", now, got, wait)
			}
			if v.excess = excess; !v.used || now > v.last {
				v.last = now
			}
			v.used = true
		}
	})
}
