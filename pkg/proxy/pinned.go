package proxy

import (
	"slices"
	"strings"
	"sync"
	"time"

	"sallyport/pkg/policy"
)

const (
	// pinnedTime is how long it is remembered that the clients of a workload do
	// not accept our certificate for a name.
	pinnedTime = time.Hour
	// maxPinned bounds the names remembered, maxPinnedPerWorkload those of one
	// workload. Beyond, a client that rejects our certificate goes on failing.
	maxPinned            = 4096
	maxPinnedPerWorkload = 256
)

// A Pinned is a name whose connections pass unseen for a while, because a client
// of the workload rejected our certificate for it (tls.on_pinned: tunnel).
type Pinned struct {
	Workload, Host string
	Until          time.Time
}

// pinned remembers them. It is only a reason to ask the policy again: whether a
// connection may pass unseen is decided each time. The zero value remembers
// nothing.
type pinned struct {
	mu  sync.Mutex
	all map[string]map[string]time.Time // workload, host: until when
	n   int
}

// add remembers a name; false where there is no room. An entry is not prolonged:
// each hour the client is asked anew whether it trusts us by now.
func (p *pinned) add(workload, host string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until, ok := p.all[workload][host]; ok && now.Before(until) {
		return true
	}
	if p.n >= maxPinned || len(p.all[workload]) >= maxPinnedPerWorkload {
		p.sweepLocked(now)
	}
	names := p.all[workload]
	if _, ok := names[host]; !ok {
		if p.n >= maxPinned || len(names) >= maxPinnedPerWorkload {
			return false
		}
		p.n++
	}
	if names == nil {
		if p.all == nil {
			p.all = make(map[string]map[string]time.Time)
		}
		names = make(map[string]time.Time)
		p.all[workload] = names
	}
	names[host] = now.Add(pinnedTime)
	return true
}

func (p *pinned) has(workload, host string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, ok := p.all[workload][host]
	return ok && now.Before(until)
}

func (p *pinned) sweepLocked(now time.Time) {
	for workload, names := range p.all {
		for host, until := range names {
			if !now.Before(until) {
				delete(names, host)
				p.n--
			}
		}
		if len(names) == 0 {
			delete(p.all, workload)
		}
	}
}

func (p *pinned) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

func (p *pinned) list(now time.Time) []Pinned {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweepLocked(now)
	out := make([]Pinned, 0, p.n)
	for workload, names := range p.all {
		for host, until := range names {
			out = append(out, Pinned{workload, host, until})
		}
	}
	slices.SortFunc(out, func(a, b Pinned) int {
		if d := strings.Compare(a.Workload, b.Workload); d != 0 {
			return d
		}
		return strings.Compare(a.Host, b.Host)
	})
	return out
}

// Pinned lists the names whose connections pass unseen now, as far as the policy
// lets them.
func (p *Proxy) Pinned() []Pinned { return p.pinned.list(time.Now()) }

// pin remembers a client that rejected our certificate, if its next connections
// may pass unseen, and says in the audit what will happen. It needs a name that
// the client itself gave: without one nobody knows what else is at the address.
func (c *conn) pin(h *hop) (note string) {
	s, now := c.p.settings.Load(), time.Now()
	switch {
	case !s.TunnelPinned || h.name == "":
		return ""
	case !c.tunnelable(s, h, now):
		return "; tls.on_pinned does not tunnel it, because a rule has to see its requests"
	case !c.p.pinned.add(c.id.Name, h.name, now):
		return "; tls.on_pinned does not tunnel it, because too many names are remembered already"
	default:
		return "; for one hour its connections to " + h.name + " are tunnelled (tls.on_pinned)"
	}
}

// passesUnseen reports whether a connection that would be inspected is tunnelled
// because its client rejected our certificate lately.
func (c *conn) passesUnseen(s *Settings, h *hop, now time.Time) bool {
	if !s.TunnelPinned || h.name == "" || !c.p.pinned.has(c.id.Name, h.name, now) || !c.tunnelable(s, h, now) {
		return false
	}
	c.count.PinnedTunnel()
	return true
}

// tunnelable asks the policy that holds now.
func (c *conn) tunnelable(s *Settings, h *hop, now time.Time) bool {
	t := target{host: h.name, addr: h.addr, port: h.port}
	addrs, n := c.work.addresses(s, &t, now)
	if n != nil && (!n.allowed.Verdict.Passes() || n.err != nil) {
		return false
	}
	return s.Policy.Tunnelable(c.work.ask(&t, policy.TLS, addrs, nil))
}
