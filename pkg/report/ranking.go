package report

import (
	"slices"
	"time"
)

// An Extreme is one exchange that stands out.
type Extreme struct {
	Time     time.Time `json:"time"`
	ID       string    `json:"id"`
	Workload string    `json:"workload"`
	// Request is the method, the host and the path, clipped.
	Request string `json:"request"`
	Status  int    `json:"status"`
	// Total and Upstream are seconds.
	Total    float64 `json:"total,omitempty"`
	Upstream float64 `json:"upstream,omitempty"`
	// Sent and Received are bytes of body.
	Sent     int64 `json:"sent,omitempty"`
	Received int64 `json:"received,omitempty"`
}

// A ranking keeps the exchanges with the greatest values, greatest first; of
// equal ones the earlier.
type ranking struct {
	most   int
	values []uint64
	rows   []Extreme
}

// offer puts an exchange in its place; make is called only for one that has a
// place.
func (r *ranking) offer(value uint64, make func() Extreme) {
	if len(r.values) == r.most && value <= r.values[r.most-1] {
		return
	}
	at := len(r.values)
	for at > 0 && r.values[at-1] < value {
		at--
	}
	r.values = slices.Insert(r.values, at, value)
	r.rows = slices.Insert(r.rows, at, make())
	r.values, r.rows = r.values[:min(len(r.values), r.most)], r.rows[:min(len(r.rows), r.most)]
}
