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
			"Attempts to write to the sink that failed, and events that it lost because its queue was full; for queue: those of all sinks.", "sink"),
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
	var lost uint64
	for _, sink := range s.Sinks {
		ch <- counter(c.failures, sink.Failures+sink.Lost, sink.Name)
		lost += sink.Lost
	}
	ch <- counter(c.failures, lost, "queue")
}
