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
)

// legs brings together the closed flows and the totals that the kernel
// reports for the workload's own socket, in whichever order they come.
type legs struct {
	mu   sync.Mutex
	open map[uint64]*totals
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
	l.open[flow] = &totals{done: make(chan struct{})}
	l.mu.Unlock()
}

// report takes the kernel's totals; those of flows that are not here are
// nobody's.
func (l *legs) report(flow uint64, leg audit.Leg) {
	l.fed.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.open[flow]
	if t == nil {
		return
	}
	select {
	case <-t.done:
	default:
		t.leg = leg
		close(t.done)
	}
}

// end gives the kernel's totals, or ours if they do not come in time.
func (l *legs) end(flow uint64, ours audit.Leg) audit.Leg {
	l.mu.Lock()
	t := l.open[flow]
	l.mu.Unlock()
	defer l.drop(flow)
	if t == nil {
		return ours
	}
	select {
	case <-t.done:
		return t.leg
	default:
	}
	if !l.fed.Load() {
		return ours
	}
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > maxClosing {
		return ours
	}
	timer := time.NewTimer(totalsTime)
	defer timer.Stop()
	select {
	case <-t.done:
		return t.leg
	case <-timer.C:
		return ours
	}
}

func (l *legs) drop(flow uint64) {
	l.mu.Lock()
	delete(l.open, flow)
	l.mu.Unlock()
}

func (l *legs) len() int { return int(l.waiting.Load()) }

// FlowClosed brings the kernel's final totals of a workload's socket, by the
// flow's id.
func (p *Proxy) FlowClosed(flow uint64, leg audit.Leg) { p.legs.report(flow, leg) }
