package ratelimit

import (
	"strconv"

	"sallyport/pkg/exchange"
)

// Deliver implements exchange.DeliveryStage: it tells what is left, as Kong
// does. Observing changes nothing.
func (s *Stage) Deliver(x *exchange.Exchange) {
	v, ok := x.Kept(s).(*verdict)
	if !ok || x.Subject.Observe {
		return
	}
	// Of several limits of the same window the one that is closest to empty is
	// told.
	var rows [windows]int64
	var limits [windows]string
	any := false
	for i := range s.buckets {
		b, t := &s.buckets[i], &v.takes[i]
		if t.counter == nil {
			continue
		}
		for w := range windows {
			if !b.shown[w] {
				continue
			}
			left := max(0, b.limits[w]-t.counts[w].n)
			if limits[w] == "" || left < rows[w] {
				rows[w], limits[w] = left, b.fields[w]
				any = true
			}
		}
	}
	if !any {
		return
	}
	closest := windows
	for w := range windows {
		// Among equals the longest, so that Retry-After and the reset agree.
		if limits[w] != "" && (closest == windows || rows[w] <= rows[closest]) {
			closest = w
		}
	}
	var buffer [(int(windows) + 1) * 20]byte
	var ends [windows]int
	text := buffer[:0]
	for w := range windows {
		if limits[w] != "" {
			text = strconv.AppendInt(text, rows[w], 10)
		}
		ends[w] = len(text)
	}
	text = strconv.AppendInt(text, lengths[closest]-v.now%lengths[closest], 10)
	all := string(text)
	h := &x.Response.Header
	begin := 0
	for w := range windows {
		if limits[w] != "" {
			remaining := all[begin:ends[w]]
			if w == closest {
				h.Set("RateLimit-Limit", limits[w])
				h.Set("RateLimit-Remaining", remaining)
				h.Set("RateLimit-Reset", all[ends[windows-1]:])
			}
			h.Set(limitFields[w], limits[w])
			h.Set(remainingFields[w], remaining)
		}
		begin = ends[w]
	}
}

const limitPrefix, remainingPrefix = "X-RateLimit-Limit-", "X-RateLimit-Remaining-"

var limitFields, remainingFields = [windows]string{
	limitPrefix + "Second", limitPrefix + "Minute", limitPrefix + "Hour", limitPrefix + "Day",
}, [windows]string{
	remainingPrefix + "Second", remainingPrefix + "Minute", remainingPrefix + "Hour", remainingPrefix + "Day",
}
