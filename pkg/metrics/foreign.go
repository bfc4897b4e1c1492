package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// foreignOutcomes are what can become of a socket from outside.
var foreignOutcomes = [...]string{"destroyed", "process_ended", "queue_emptied", "failed"}

// foreignSockets counts sockets that were found in a workload although nothing of
// ours decided on them.
type foreignSockets struct {
	mu     sync.Mutex
	counts [len(foreignOutcomes)]uint64
}

// ForeignSocket counts one by its outcome: destroyed, process_ended, queue_emptied, or failed,
// which any other counts as.
func (m *Metrics) ForeignSocket(outcome string) {
	m.foreign.mu.Lock()
	defer m.foreign.mu.Unlock()
	for i, o := range foreignOutcomes {
		if o == outcome || i == len(foreignOutcomes)-1 {
			m.foreign.counts[i]++
			return
		}
	}
}

type foreignCollector struct {
	m     *Metrics
	total *prometheus.Desc
}

func newForeignCollector(m *Metrics) *foreignCollector {
	return &foreignCollector{m: m, total: desc("foreign_sockets_total",
		"Sockets found in a workload that were connected outside of it or before its tag, by what became of them.", "outcome")}
}

func (c *foreignCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.total }

func (c *foreignCollector) Collect(ch chan<- prometheus.Metric) {
	c.m.foreign.mu.Lock()
	defer c.m.foreign.mu.Unlock()
	for i, o := range foreignOutcomes {
		ch <- counter(c.total, c.m.foreign.counts[i], o)
	}
}
