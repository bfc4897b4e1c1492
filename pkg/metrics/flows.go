package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sallyport/pkg/policy"
)

// FlowOpened counts a flow that was decided, and that it is open now: each call
// is followed by one of FlowClosed. A refused flow is FlowRefused instead.
func (w *Workload) FlowOpened(h policy.Handling, v policy.Verdict) {
	w.flows[h][v].Add(1)
	w.active.Add(1)
}

// FlowRefused counts a flow that never opened.
func (w *Workload) FlowRefused(h policy.Handling) { w.flows[h][policy.Deny].Add(1) }

// FlowClosed ends what FlowOpened began.
func (w *Workload) FlowClosed() { w.active.Add(-1) }

// LegClosed adds the kernel's final totals of one leg of a flow: bytes and
// retransmitted segments of TCP, and the smoothed round trip time (0: not
// measured).
func (w *Workload) LegClosed(l Leg, sent, received, retransmits uint64, rtt time.Duration) {
	c := &w.legs[l]
	c.sent.Add(sent)
	c.received.Add(received)
	c.retransmits.Add(retransmits)
	if rtt > 0 {
		c.rtt.observe(rtt)
	}
}

type legKey struct {
	workload string
	leg      Leg
}

type legTotals struct{ sent, received, retransmits uint64 }

// flowCollector shows flows. Bytes of open flows come from the datapath; between
// the kernel's removal of a flow and LegClosed its bytes are in neither place,
// so a counter never shows less than it did before.
type flowCollector struct {
	m                                *Metrics
	flows, active                    *prometheus.Desc
	sent, received, retransmits, rtt *prometheus.Desc
}

func newFlowCollector(m *Metrics) *flowCollector {
	return &flowCollector{
		m: m,
		flows: desc("flows_total", "Flows by what was decided for them.",
			"workload", "handling", "verdict"),
		active: desc("flows_active", "Flows that are open now.", "workload"),
		sent: desc("flow_sent_bytes_total", "Bytes sent by the end that the leg is named after, as the kernel counted them.",
			"workload", "leg"),
		received: desc("flow_received_bytes_total", "Bytes received by the end that the leg is named after, as the kernel counted them.",
			"workload", "leg"),
		retransmits: desc("flow_retransmits_total", "TCP segments sent again.", "workload", "leg"),
		rtt: desc("flow_rtt_seconds", "Smoothed round trip time of closed flows.",
			"workload", "leg"),
	}
}

func (c *flowCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.flows, c.active, c.sent, c.received, c.retransmits, c.rtt} {
		ch <- d
	}
}

func (c *flowCollector) Collect(ch chan<- prometheus.Metric) {
	workloads := c.m.table.snapshot()
	for _, w := range workloads {
		for h := range handlings {
			for v := range verdicts {
				if n := w.flows[h][v].Load(); n > 0 {
					ch <- counter(c.flows, n, w.name, policy.Handling(h).String(), policy.Verdict(v).String())
				}
			}
		}
		ch <- gauge(c.active, float64(w.active.Load()), w.name)
		for leg := range legs {
			if m := w.legs[leg].rtt.metric(c.rtt, w.name, legNames[leg]); m != nil {
				ch <- m
			}
		}
	}
	totals, err := c.totals(workloads)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.sent, err)
	}
	for key, t := range totals {
		ch <- counter(c.sent, t.sent, key.workload, legNames[key.leg])
		ch <- counter(c.received, t.received, key.workload, legNames[key.leg])
		ch <- counter(c.retransmits, t.retransmits, key.workload, legNames[key.leg])
	}
}

// totals adds closed and open flows. Closed ones are read first: a flow that
// closes in between is then missing once, never counted twice.
func (c *flowCollector) totals(workloads []*Workload) (map[legKey]legTotals, error) {
	sums := make(map[legKey]legTotals, len(workloads))
	for _, w := range workloads {
		for leg := range legs {
			l := &w.legs[leg]
			t := legTotals{l.sent.Load(), l.received.Load(), l.retransmits.Load()}
			if t != (legTotals{}) {
				sums[legKey{w.name, leg}] = t
			}
		}
	}
	var err error
	if c.m.o.Datapath != nil {
		var live []LiveFlow
		live, err = c.m.o.Datapath.LiveFlows()
		for _, f := range live {
			key := legKey{c.m.Workload(f.Workload).name, f.Leg}
			t := sums[key]
			t.sent += f.Sent
			t.received += f.Received
			t.retransmits += f.Retransmits
			sums[key] = t
		}
	}
	return c.m.table.neverLess(sums), err
}

// neverLess raises the sums to what was shown before and remembers them.
func (t *table) neverLess(sums map[legKey]legTotals) map[legKey]legTotals {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, before := range t.totals {
		now := sums[key]
		sums[key] = legTotals{
			max(now.sent, before.sent), max(now.received, before.received), max(now.retransmits, before.retransmits),
		}
	}
	for key, now := range sums {
		t.totals[key] = now
	}
	return sums
}
