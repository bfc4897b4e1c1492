package metrics

import (
	"iter"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport/pkg/policy"
)

type deniedCollector struct {
	m      *Metrics
	denied *prometheus.Desc
}

func newDeniedCollector(m *Metrics) *deniedCollector {
	return &deniedCollector{m: m, denied: desc("denied_total",
		"Refusals, and with verdict would_deny what observe mode let pass.",
		"workload", "rule", "reason", "verdict")}
}

func (c *deniedCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.denied }

func (c *deniedCollector) Collect(ch chan<- prometheus.Metric) {
	for w, r := range c.m.table.allRules() {
		for _, cell := range r.denied.all() {
			ch <- counter(c.denied, cell.n.Load(), w.name, r.name,
				policy.Reason(cell.key>>8).String(), policy.Verdict(cell.key&0xff).String())
		}
	}
}

// allRules goes through every pair of workload and rule on the page.
func (t *table) allRules() iter.Seq2[*Workload, *Rule] {
	return func(yield func(*Workload, *Rule) bool) {
		for _, w := range t.snapshot() {
			w.mu.RLock()
			rules := make([]*Rule, 0, len(w.rules))
			for _, r := range w.rules {
				rules = append(rules, r)
			}
			w.mu.RUnlock()
			for _, r := range rules {
				if !yield(w, r) {
					return
				}
			}
		}
	}
}
