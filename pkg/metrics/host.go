package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Certificate is one of the authority's: root or issuing.
type Certificate struct {
	Name     string
	NotAfter time.Time
}

// HostFigures are about the host, not about workloads.
type HostFigures struct {
	Certificates            []Certificate
	ClockForward, ClockBack uint64
}

// Host gives them.
type Host interface {
	HostFigures() (HostFigures, error)
}

type hostCollector struct {
	source         Host
	expiry, clocks *prometheus.Desc
}

func newHostCollector(source Host) *hostCollector {
	return &hostCollector{
		source: source,
		expiry: desc("ca_expiry_timestamp_seconds", "When a certificate of the authority ends.", "certificate"),
		clocks: desc("clock_jumps_total", "How often the host's clock was seen to be set by a second or more.", "direction"),
	}
}

func (c *hostCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.expiry
	ch <- c.clocks
}

func (c *hostCollector) Collect(ch chan<- prometheus.Metric) {
	f, err := c.source.HostFigures()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.expiry, err)
		ch <- prometheus.NewInvalidMetric(c.clocks, err)
		return
	}
	for _, cert := range f.Certificates {
		ch <- gauge(c.expiry, float64(cert.NotAfter.Unix()), labelValue(cert.Name))
	}
	ch <- counter(c.clocks, f.ClockForward, "forward")
	ch <- counter(c.clocks, f.ClockBack, "back")
}
