package keeper

import (
	"fmt"
	"time"
)

const (
	// maxNamespaces bounds the network namespaces with listeners at a time: four
	// descriptors of each lie in the service manager's store, which takes 1024
	// (sallyport-keeper.service). Beyond, a namespace has no listeners, and
	// everything in it is refused.
	maxNamespaces = 240
	// maxOfWorkload is one workload's share of them.
	maxOfWorkload = maxNamespaces / 2
)

// Namespaces opened at once and then each second, in all and of one workload. To
// open one costs some milliseconds: a workload that makes them without end has no
// more of the keeper than that.
const (
	openBurst, openRate             = 128, 32
	workloadOpenBurst, workloadRate = 32, 10
)

// A quota is the bounded number of namespaces, and how fast they are given out.
// It is for one goroutine.
type quota struct {
	capacity, share int
	taken           int
	of              map[uint64]int // by the workload's cgroup
	all             tokens
	each            map[uint64]*tokens
}

func newQuota(capacity, share int) *quota {
	return &quota{capacity: capacity, share: share, of: make(map[uint64]int), all: tokens{left: openBurst}, each: make(map[uint64]*tokens)}
}

// full says why a workload has no place, "" if it has one.
func (p *quota) full(workload uint64) string {
	switch {
	case p.taken >= p.capacity:
		return fmt.Sprintf("all %d places for network namespaces are taken", p.capacity)
	case p.of[workload] >= p.share:
		return fmt.Sprintf("the workload has its %d of the %d places for network namespaces", p.share, p.capacity)
	}
	return ""
}

// now reports whether a namespace of the workload may be opened at this moment;
// if not, its turn comes. It counts.
func (p *quota) now(workload uint64, t time.Time) bool {
	own := p.each[workload]
	if own == nil {
		own = &tokens{left: workloadOpenBurst, at: t}
		p.each[workload] = own
	}
	if !own.has(t, workloadOpenBurst, workloadRate) || !p.all.has(t, openBurst, openRate) {
		return false
	}
	own.left--
	p.all.left--
	return true
}

func (p *quota) take(workload uint64) {
	p.taken++
	p.of[workload]++
}

func (p *quota) give(workload uint64) {
	p.taken--
	if p.of[workload]--; p.of[workload] <= 0 {
		delete(p.of, workload)
	}
}

// tidy forgets workloads that opened nothing for so long that they may open as
// many as a new one.
func (p *quota) tidy(t time.Time) {
	for workload, own := range p.each {
		if own.has(t, workloadOpenBurst, workloadRate); own.left >= workloadOpenBurst {
			delete(p.each, workload)
		}
	}
}

// tokens are a bucket that fills with time.
type tokens struct {
	left float64
	at   time.Time
}

// has reports whether there is one.
func (b *tokens) has(t time.Time, burst, rate float64) bool {
	if passed := t.Sub(b.at).Seconds(); passed > 0 {
		b.left = min(b.left+passed*rate, burst)
		b.at = t
	}
	return b.left >= 1
}
