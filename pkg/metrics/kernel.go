package metrics

import "github.com/prometheus/client_golang/prometheus"

type bpfCollector struct {
	source        Datapath
	refused, lost *prometheus.Desc
}

func newBPFCollector(source Datapath) *bpfCollector {
	return &bpfCollector{
		source: source,
		refused: desc("bpf_refused_total",
			"Connections, datagrams, sockets and packets that the BPF programs refused.", "reason"),
		lost: desc("bpf_events_lost_total",
			"Events of the BPF programs that found their buffer full: the audit lacks them, the other counters do not."),
	}
}

func (c *bpfCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.refused
	ch <- c.lost
}

func (c *bpfCollector) Collect(ch chan<- prometheus.Metric) {
	refusals, err := c.source.Refusals()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.refused, err)
		return
	}
	for reason, n := range refusals {
		ch <- counter(c.refused, n, labelValue(reason))
	}
	lost, err := c.source.EventsLost()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.lost, err)
		return
	}
	ch <- counter(c.lost, lost)
}

type guardCollector struct {
	source   Guard
	rejected *prometheus.Desc
}

func newGuardCollector(source Guard) *guardCollector {
	return &guardCollector{source: source, rejected: desc("guard_rejected_packets_total",
		"Packets that the nftables table rejected.")}
}

func (c *guardCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.rejected }

func (c *guardCollector) Collect(ch chan<- prometheus.Metric) {
	n, err := c.source.RejectedPackets()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.rejected, err)
		return
	}
	ch <- counter(c.rejected, n)
}
