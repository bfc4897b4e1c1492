package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"sallyport/pkg/policy"
)

type limitedCollector struct {
	m       *Metrics
	limited *prometheus.Desc
}

func newLimitedCollector(m *Metrics) *limitedCollector {
	return &limitedCollector{m: m, limited: desc("rate_limited_total", "Requests refused by rate_limit or throttle.", "workload", "rule")}
}

func (c *limitedCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.limited }

func (c *limitedCollector) Collect(ch chan<- prometheus.Metric) {
	for w, r := range c.m.table.allRules() {
		var n uint64
		for _, cell := range r.denied.all() {
			reason, verdict := policy.Reason(cell.key>>8), policy.Verdict(cell.key&0xff)
			if verdict == policy.Deny && (reason == policy.RateLimited || reason == policy.Throttled) {
				n += cell.n.Load()
			}
		}
		if n > 0 {
			ch <- counter(c.limited, n, w.name, r.name)
		}
	}
}
