package admin

import "sallyport/pkg/audit"

// flowOf makes a Flow of a flow_open or flow_close event.
func flowOf(e *audit.Event) Flow {
	f := Flow{
		ID: e.Flow, State: FlowOpen, Opened: e.Time, Duration: e.Duration.Total.Seconds(),
		Workload: FlowWorkload{
			Name: e.Workload.Name, Cgroup: e.Workload.Cgroup, PID: e.Workload.PID, UID: e.Workload.UID, Exe: e.Workload.Exe,
		},
		Dst:      FlowDst{IP: e.Dst.IP, Port: e.Dst.Port, Host: e.Dst.Host},
		Handling: e.TLS.Handling, Verdict: e.Verdict, Reason: e.Reason, Rule: e.Rule, Direction: e.Direction,
		Counters: Counters{Workload: LegOf(e.Counters.Workload), Upstream: LegOf(e.Counters.Upstream)},
	}
	if e.Kind == audit.FlowClose {
		f.State = FlowClosed
	}
	if f.Dst.Host == "" {
		f.Dst.Host = e.TLS.SNI
	}
	return f
}

// LegOf gives a leg as the API shows it, nil for one without figures.
func LegOf(l audit.Leg) *Leg {
	if l == (audit.Leg{}) {
		return nil
	}
	return &Leg{
		BytesSent: l.BytesSent, BytesReceived: l.BytesReceived, Segments: l.Segments, Retransmits: l.Retransmits,
		RTT: l.RTT.Seconds(),
	}
}

// wanted applies a filter to a flow; its kinds do not matter here.
func wanted(f *Flow, filter *audit.Filter) bool {
	return filter.MatchSubject(&audit.Subject{
		Time: f.Opened, Verdict: f.Verdict, Reason: f.Reason, Rule: f.Rule,
		Workload: audit.Workload{Name: f.Workload.Name, Cgroup: f.Workload.Cgroup},
		IP:       f.Dst.IP, Hosts: [4]string{f.Dst.Host},
	})
}
