package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport/pkg/exchange"
)

// CacheRequest counts a request of a rule with a cache; it panics for a status
// outside the set.
func (m *Metrics) CacheRequest(s exchange.CacheStatus) { m.cache[s].Add(1) }

type cacheCollector struct {
	m        *Metrics
	requests *prometheus.Desc
}

func newCacheCollector(m *Metrics) *cacheCollector {
	return &cacheCollector{m: m, requests: desc("cache_requests_total", "Requests of rules with a cache, by how it served them.", "status")}
}

func (c *cacheCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.requests }

func (c *cacheCollector) Collect(ch chan<- prometheus.Metric) {
	for s := exchange.NoCache + 1; s < exchange.CacheStatuses; s++ {
		ch <- counter(c.requests, c.m.cache[s].Load(), strings.ToLower(s.String()))
	}
}
