package metrics

import (
	"iter"

	"github.com/prometheus/client_golang/prometheus"
)

type http2Collector struct {
	source iter.Seq2[string, uint64]
	closed *prometheus.Desc
}

func newHTTP2Collector(source iter.Seq2[string, uint64]) *http2Collector {
	return &http2Collector{source: source, closed: desc("http2_closed_total",
		"HTTP/2 connections and streams that were ended because of what their peer did.", "cause")}
}

func (c *http2Collector) Describe(ch chan<- *prometheus.Desc) { ch <- c.closed }

func (c *http2Collector) Collect(ch chan<- prometheus.Metric) {
	for cause, n := range c.source {
		ch <- counter(c.closed, n, cause)
	}
}
