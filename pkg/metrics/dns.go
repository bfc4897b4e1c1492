package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"sallyport/pkg/policy"
)

// DNSQuery counts a question of this workload.
func (w *Workload) DNSQuery(v policy.Verdict) { w.dns[v].Add(1) }

type dnsCollector struct {
	m       *Metrics
	queries *prometheus.Desc
}

func newDNSCollector(m *Metrics) *dnsCollector {
	return &dnsCollector{m: m, queries: desc("dns_queries_total", "DNS questions of workloads.", "workload", "verdict")}
}

func (c *dnsCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.queries }

func (c *dnsCollector) Collect(ch chan<- prometheus.Metric) {
	for _, w := range c.m.table.snapshot() {
		for v := range verdicts {
			if n := w.dns[v].Load(); n > 0 {
				ch <- counter(c.queries, n, w.name, policy.Verdict(v).String())
			}
		}
	}
}
