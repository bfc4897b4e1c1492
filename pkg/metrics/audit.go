package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"sallyport/pkg/audit"
)

type auditCollector struct {
	source           Audit
	events, failures *prometheus.Desc
}

func newAuditCollector(source Audit) *auditCollector {
	return &auditCollector{
		source: source,
		events: desc("audit_events_total", "Audit events by kind.", "kind"),
		failures: desc("audit_failures_total",
			"Attempts to write to the sink that failed; for queue: events lost because the queue was full.", "sink"),
	}
}

func (c *auditCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.events
	ch <- c.failures
}

func (c *auditCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.source.Stats()
	for _, k := range audit.Kinds() {
		ch <- counter(c.events, s.Events[k], k.String())
	}
	ch <- counter(c.failures, s.Failures, s.Sink)
	ch <- counter(c.failures, s.Lost, "queue")
}
