package metrics

import (
	"iter"

	"github.com/prometheus/client_golang/prometheus"
)

// A Target is one of an upstream and whether it is healthy.
type Target struct {
	Upstream, Target string
	Healthy          bool
}

type targetCollector struct {
	source  iter.Seq[Target]
	healthy *prometheus.Desc
}

func newTargetCollector(source iter.Seq[Target]) *targetCollector {
	return &targetCollector{source: source, healthy: desc("upstream_target_healthy",
		"Whether requests are sent to a target (1) or not (0).", "upstream", "target")}
}

func (c *targetCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.healthy }

func (c *targetCollector) Collect(ch chan<- prometheus.Metric) {
	for t := range c.source {
		v := 0.0
		if t.Healthy {
			v = 1
		}
		ch <- gauge(c.healthy, v, t.Upstream, t.Target)
	}
}
