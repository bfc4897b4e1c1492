package metrics

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sallyport/pkg/policy"
)

// The bounds of the page.
const (
	// MaxWorkloads is how many workloads have their own name on the page; those
	// beyond share OtherName.
	MaxWorkloads = 1000
	// MaxRules is how many pairs of workload and rule are counted apart; those
	// beyond share OtherName as their rule.
	MaxRules = 20000
	// KeepEnded is how long a workload without an entry stays after its end.
	KeepEnded = 10 * time.Minute
	// OtherName stands for what has no name of its own: workloads and rules
	// beyond the bounds, methods outside RFC 9110 and PATCH, odd status codes.
	OtherName = "other"
)

// table holds the handles of all workloads.
type table struct {
	now func() time.Time

	mu        sync.RWMutex
	workloads map[string]*Workload
	other     *Workload
	shared    bool                 // somebody got other
	rules     int                  // pairs of workload and rule
	totals    map[legKey]legTotals // what the page showed last
}

func (t *table) init(now func() time.Time) {
	t.now = now
	t.workloads = make(map[string]*Workload)
	t.other = newWorkload(t, OtherName)
	t.totals = make(map[legKey]legTotals)
}

// A Workload is the handle by which the hot path counts for one workload. Look
// it up once per connection; it stays valid while a flow is open.
type Workload struct {
	table *table
	name  string

	mu    sync.RWMutex
	rules map[string]*Rule

	// ended is when the workload ended, in Unix nanoseconds; 0 = it lives or has
	// an entry in the configuration. Changed under table.mu.
	ended  int64
	active atomic.Int64
	flows  [handlings][verdicts]atomic.Uint64
	dns    [verdicts]atomic.Uint64
	// tlsRejected counts clients that did not accept our certificate.
	tlsRejected atomic.Uint64
	// pinnedTunnels counts connections that passed unseen because of that.
	pinnedTunnels atomic.Uint64
	legs          [legs]closedLeg
}

const (
	handlings = int(policy.Direct) + 1
	verdicts  = int(policy.WouldDeny) + 1
)

// closedLeg is the totals of closed flows.
type closedLeg struct {
	sent, received, retransmits atomic.Uint64
	rtt                         histogram
}

// Workload gives the handle of a workload and brings an ended one back. Beyond
// MaxWorkloads it is the handle of OtherName.
func (m *Metrics) Workload(name string) *Workload {
	t := &m.table
	name = labelValue(name)
	t.mu.RLock()
	w := t.workloads[name]
	alive := w != nil && w.ended == 0
	t.mu.RUnlock()
	if alive {
		return w
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if w = t.workloads[name]; w != nil {
		w.ended = 0
		return w
	}
	if len(t.workloads) >= MaxWorkloads {
		t.expire()
	}
	if len(t.workloads) >= MaxWorkloads || name == OtherName || name == "" {
		t.shared = true
		return t.other
	}
	w = newWorkload(t, name)
	t.workloads[name] = w
	return w
}

func newWorkload(t *table, name string) *Workload {
	w := &Workload{table: t, name: name, rules: make(map[string]*Rule)}
	for leg := range w.legs {
		w.legs[leg].rtt.init(&rttBuckets)
	}
	return w
}

// labelValue makes a name fit for a label: UTF-8, as the format demands, and of
// bounded length. Names are compared after this.
func labelValue(name string) string {
	const most = 200
	if len(name) > most {
		name = name[:most]
	}
	return strings.ToValidUTF8(name, "\ufffd")
}

// Living says which workloads live or have an entry in the configuration. The
// others have ended: they leave the page after KeepEnded, unless Workload is asked
// for them before.
func (m *Metrics) Living(lives func(name string) bool) {
	t := &m.table
	now := t.now().UnixNano()
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, w := range t.workloads {
		switch {
		case lives(name):
			w.ended = 0
		case w.ended == 0:
			w.ended = now
		}
	}
}

// expire removes workloads that ended KeepEnded ago and have no open flow. The
// caller holds mu.
func (t *table) expire() {
	limit := t.now().Add(-KeepEnded).UnixNano()
	for name, w := range t.workloads {
		if w.ended == 0 || w.ended > limit || w.active.Load() > 0 {
			continue
		}
		w.mu.RLock()
		t.rules -= len(w.rules)
		w.mu.RUnlock()
		delete(t.workloads, name)
		for leg := range legs {
			delete(t.totals, legKey{name, leg})
		}
	}
}

// snapshot lists the workloads that belong on the page.
func (t *table) snapshot() []*Workload {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire()
	list := make([]*Workload, 0, len(t.workloads)+1)
	for _, w := range t.workloads {
		list = append(list, w)
	}
	if t.shared {
		list = append(list, t.other)
	}
	return list
}

func (t *table) resources() []Resource {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return []Resource{
		{Name: "metric_workloads", Entries: uint64(len(t.workloads)), Capacity: MaxWorkloads},
		{Name: "metric_rules", Entries: uint64(t.rules), Capacity: MaxRules},
	}
}
