package metrics

import "github.com/prometheus/client_golang/prometheus"

// resourceCollector shows how full every bounded thing is.
type resourceCollector struct {
	m                 *Metrics
	entries, capacity *prometheus.Desc
}

func newResourceCollector(m *Metrics) *resourceCollector {
	return &resourceCollector{
		m:        m,
		entries:  desc("resource_entries", "How much of a bounded thing is in use.", "resource"),
		capacity: desc("resource_capacity", "How much of a bounded thing there is.", "resource"),
	}
}

func (c *resourceCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.entries
	ch <- c.capacity
}

func (c *resourceCollector) Collect(ch chan<- prometheus.Metric) {
	for _, r := range c.m.Resources() {
		ch <- gauge(c.entries, float64(r.Entries), r.Name)
		ch <- gauge(c.capacity, float64(r.Capacity), r.Name)
	}
}

// Resources lists the bounded things of the page itself, of the audit, and of
// Options.Resources; of two with the same name the first stays.
func (m *Metrics) Resources() []Resource {
	list := m.table.resources()
	if m.o.Audit != nil {
		s := m.o.Audit.Stats()
		list = append(list, Resource{Name: "audit_followers", Entries: s.Followers, Capacity: s.FollowersCapacity})
		for i, sink := range s.Sinks {
			name := "audit_queue"
			if i > 0 {
				name += "_" + sink.Name
			}
			list = append(list,
				Resource{Name: name, Entries: sink.QueueEvents, Capacity: sink.QueueEventsCapacity},
				Resource{Name: name + "_bytes", Entries: sink.QueueBytes, Capacity: sink.QueueBytesCapacity},
			)
		}
	}
	if m.o.Resources != nil {
		list = append(list, m.o.Resources()...)
	}
	seen := make(map[string]struct{}, len(list))
	unique := list[:0]
	for _, r := range list {
		r.Name = labelValue(r.Name)
		if _, twice := seen[r.Name]; !twice {
			seen[r.Name] = struct{}{}
			unique = append(unique, r)
		}
	}
	return unique
}
