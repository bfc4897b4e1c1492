package metrics

import "github.com/prometheus/client_golang/prometheus"

// A Side is who we did a TLS handshake with.
type Side uint8

// The sides.
const (
	WorkloadSide Side = iota
	UpstreamSide
	sides
)

var sideNames = [sides]string{WorkloadSide: "workload", UpstreamSide: "upstream"}

// A Result is how a TLS handshake ended.
type Result uint8

// The results.
const (
	HandshakeOK Result = iota
	// HandshakeRejected: the client did not accept our certificate, or we did
	// not accept the upstream's.
	HandshakeRejected
	// HandshakeFailed is everything else: no common version, reset, timeout.
	HandshakeFailed
	results
)

var resultNames = [results]string{HandshakeOK: "ok", HandshakeRejected: "rejected", HandshakeFailed: "failed"}

// Handshake counts a TLS handshake that ended.
func (m *Metrics) Handshake(s Side, r Result) { m.handshakes[s][r].Add(1) }

// TLSRejected counts a client of this workload that did not accept our
// certificate.
func (w *Workload) TLSRejected() { w.tlsRejected.Add(1) }

// PinnedTunnel counts a connection of this workload that passed unseen because
// one before it rejected our certificate (tls.on_pinned: tunnel).
func (w *Workload) PinnedTunnel() { w.pinnedTunnels.Add(1) }

type tlsCollector struct {
	m                            *Metrics
	handshakes, rejected, pinned *prometheus.Desc
}

func newTLSCollector(m *Metrics) *tlsCollector {
	return &tlsCollector{
		m:          m,
		handshakes: desc("tls_handshakes_total", "TLS handshakes that ended, with workloads and with upstreams.", "side", "result"),
		rejected:   desc("tls_client_rejected_total", "TLS clients that did not accept our certificate.", "workload"),
		pinned:     desc("tls_pinned_tunnels_total", "Connections tunnelled because a client rejected our certificate (tls.on_pinned).", "workload"),
	}
}

func (c *tlsCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.handshakes
	ch <- c.rejected
	ch <- c.pinned
}

func (c *tlsCollector) Collect(ch chan<- prometheus.Metric) {
	for s := range sides {
		for r := range results {
			ch <- counter(c.handshakes, c.m.handshakes[s][r].Load(), sideNames[s], resultNames[r])
		}
	}
	for _, w := range c.m.table.snapshot() {
		if n := w.tlsRejected.Load(); n > 0 {
			ch <- counter(c.rejected, n, w.name)
		}
		if n := w.pinnedTunnels.Load(); n > 0 {
			ch <- counter(c.pinned, n, w.name)
		}
	}
}
