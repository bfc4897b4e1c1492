package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"sallyport/pkg/audit"
)

const (
	// maxClosing bounds the closed flows that wait for the kernel's totals;
	// beyond, flow_close is written at once with what our own end has counted.
	maxClosing = 4096
	// totalsTime bounds how long one waits.
	totalsTime = time.Second
	// maxEarly bounds the reports that are kept for flows which are not known yet;
	// beyond, the oldest is forgotten.
	maxEarly = 4096
)

// legs brings together the closed flows and the totals that the kernel
// reports for the workload's own socket, in whichever order they come.
type legs struct {
	mu   sync.Mutex
	open map[uint64]*totals
	// early holds what was reported of flows that were not here: a workload may
	// be gone before its connection is accepted. order is a ring of its keys.
	early map[uint64]audit.Leg
	order []uint64
	next  int
	// fed says that totals have ever come: where nobody reports them, nobody
	// waits.
	fed     atomic.Bool
	waiting atomic.Int64
}

type totals struct {
	done chan struct{}
	leg  audit.Leg
}

// begin must come before the flow can close.
func (l *legs) begin(flow uint64) {
	l.mu.Lock()
	if l.open == nil {
		l.open = make(map[uint64]*totals)
	}
	t := &totals{done: make(chan struct{})}
	l.open[flow] = t
	if leg, ok := l.early[flow]; ok {
		delete(l.early, flow)
		t.leg = leg
		close(t.done)
	}
	l.mu.Unlock()
}

// report takes the kernel's totals.
func (l *legs) report(flow uint64, leg audit.Leg) {
	l.fed.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.open[flow]
	if t == nil {
		l.keep(flow, leg)
		return
	}
	select {
	case <-t.done:
	default:
		t.leg = leg
		close(t.done)
	}
}

// keep remembers a report for a flow that may yet begin. Without it nobody would
// ever know that the other end of that flow is gone.
func (l *legs) keep(flow uint64, leg audit.Leg) {
	if l.early == nil {
		l.early = make(map[uint64]audit.Leg)
	}
	if _, known := l.early[flow]; !known {
		if len(l.order) < maxEarly {
			l.order = append(l.order, flow)
		} else {
			delete(l.early, l.order[l.next])
			l.order[l.next] = flow
			l.next = (l.next + 1) % maxEarly
		}
	}
	l.early[flow] = leg
}

// lateTotals is what flow_close says where the kernel's totals were to be had and did
// not come: while the keeper is away, or when more flows end than are waited for.
const lateTotals = "the kernel's figures of the workload's socket did not come in time: these are of our end of the connection"

// end gives the kernel's totals, or ours if they do not come in time, and then why.
func (l *legs) end(flow uint64, ours audit.Leg) (leg audit.Leg, why string) {
	l.mu.Lock()
	t := l.open[flow]
	l.mu.Unlock()
	defer l.drop(flow)
	if t == nil {
		return ours, ""
	}
	select {
	case <-t.done:
		return t.leg, ""
	default:
	}
	if !l.fed.Load() {
		return ours, ""
	}
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > maxClosing {
		return ours, lateTotals
	}
	timer := time.NewTimer(totalsTime)
	defer timer.Stop()
	select {
	case <-t.done:
		return t.leg, ""
	case <-timer.C:
		return ours, lateTotals
	}
}

func (l *legs) drop(flow uint64) {
	l.mu.Lock()
	delete(l.open, flow)
	l.mu.Unlock()
}

func (l *legs) len() int { return int(l.waiting.Load()) }

// kept counts the reports of flows that are not here.
func (l *legs) kept() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.early)
}

// FlowClosed brings the kernel's final totals of a workload's socket, by the
// flow's id.
func (p *Proxy) FlowClosed(flow uint64, leg audit.Leg) { p.legs.report(flow, leg) }
