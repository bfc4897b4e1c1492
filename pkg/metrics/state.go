package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reload is what the last reload came to.
type reload struct {
	mu      sync.Mutex
	ok      bool
	success time.Time
}

func (r *reload) set(ok bool, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ok = ok
	if ok {
		r.success = at
	}
}

func (r *reload) get() (ok bool, success time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ok, r.success
}

// stateCollector shows what an alert looks at first.
type stateCollector struct {
	m                                              *Metrics
	enforcement, locks, reloaded, reloadTime, info *prometheus.Desc
}

func newStateCollector(m *Metrics) *stateCollector {
	return &stateCollector{
		m:           m,
		enforcement: desc("enforcement_active", "1 when the last self-probe found the gate shut."),
		locks:       desc("enforcement_locks", "How many locks, each of which keeps the gate shut by itself, are to be in force: 2, or 1 where nftables captures."),
		reloaded:    desc("config_last_reload_successful", "1 when the last reload of the configuration succeeded."),
		reloadTime:  desc("config_last_reload_success_timestamp_seconds", "When the configuration was last loaded with success."),
		info: prometheus.NewDesc(prometheus.BuildFQName(namespace, "", "build_info"),
			"A 1 with the build as labels.", nil, prometheus.Labels{
				"version": labelValue(m.o.Version), "revision": labelValue(m.o.Revision), "goversion": goVersion(),
			}),
	}
}

func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.enforcement, c.locks, c.reloaded, c.reloadTime, c.info} {
		ch <- d
	}
}

func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	ok, success := c.m.reload.get()
	ch <- gauge(c.enforcement, truth(c.m.enforcement.Load()))
	ch <- gauge(c.locks, float64(c.m.locks.Load()))
	ch <- gauge(c.reloaded, truth(ok))
	if !success.IsZero() {
		ch <- gauge(c.reloadTime, float64(success.UnixMilli())/1000)
	}
	ch <- gauge(c.info, 1)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
