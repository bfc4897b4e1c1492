package metrics

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxBuckets is the most upper bounds of a histogram, without +Inf.
const maxBuckets = 16

// buckets are upper bounds in ascending order.
type buckets struct {
	bounds [maxBuckets]time.Duration
	n      int
}

func bucketsOf(bounds ...time.Duration) (b buckets) {
	b.n = copy(b.bounds[:], bounds)
	return b
}

var (
	// A request goes from a cache hit next door to a tool call that streams for
	// minutes.
	durationBuckets = bucketsOf(
		time.Millisecond, 2500*time.Microsecond, 5*time.Millisecond, 10*time.Millisecond,
		25*time.Millisecond, 50*time.Millisecond, 100*time.Millisecond, 250*time.Millisecond,
		500*time.Millisecond, time.Second, 2500*time.Millisecond, 5*time.Second,
		10*time.Second, 30*time.Second, time.Minute, 5*time.Minute,
	)
	// A round trip goes from loopback to a satellite.
	rttBuckets = bucketsOf(
		50*time.Microsecond, 100*time.Microsecond, 250*time.Microsecond, 500*time.Microsecond,
		time.Millisecond, 2500*time.Microsecond, 5*time.Millisecond, 10*time.Millisecond,
		25*time.Millisecond, 50*time.Millisecond, 100*time.Millisecond, 250*time.Millisecond,
		500*time.Millisecond, time.Second, 2500*time.Millisecond,
	)
)

// A histogram counts durations without a lock. A page that is made meanwhile may
// see an observation in a bucket and not yet in the sum.
type histogram struct {
	buckets *buckets
	counts  [maxBuckets + 1]atomic.Uint64 // the last is +Inf
	sum     atomic.Int64                  // nanoseconds: 292 years
}

func (h *histogram) init(b *buckets) { h.buckets = b }

// observe counts d; a negative one (the clock stepped) counts as zero.
func (h *histogram) observe(d time.Duration) {
	d = max(d, 0)
	i := 0
	for i < h.buckets.n && d > h.buckets.bounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

// metric gives the histogram, or nil where nothing was observed.
func (h *histogram) metric(desc *prometheus.Desc, labels ...string) prometheus.Metric {
	cumulative := make(map[float64]uint64, h.buckets.n)
	var count uint64
	for i := range h.buckets.n {
		count += h.counts[i].Load()
		cumulative[seconds(h.buckets.bounds[i])] = count
	}
	count += h.counts[h.buckets.n].Load()
	if count == 0 {
		return nil
	}
	return prometheus.MustNewConstHistogram(desc, count, seconds(time.Duration(h.sum.Load())), cumulative, labels...)
}

// seconds converts without the noise of a multiplication by 1e-9.
func seconds(d time.Duration) float64 {
	return math.Round(d.Seconds()*1e9) / 1e9
}
