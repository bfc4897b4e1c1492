package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"go.uber.org/zap"

	"sallyport/pkg/audit"
	"sallyport/pkg/balance"
	"sallyport/pkg/metrics"
	"sallyport/pkg/policy/address"
	"sallyport/pkg/upstream"
)

// openBalance makes what is known of targets through reloads, and the targets of
// the first configuration.
func (w *worker) openBalance() error {
	w.balance = balance.New(balance.Options{Dial: w.dialTarget, Changed: w.targetChanged})
	s := w.config.Load()
	s.balance = w.balance.Apply(s.config)
	return nil
}

// dialTarget opens a connection for an active check as a request of a rule with
// that upstream would: to an address that some such rule lets be dialled, by the
// upstream proxy and with the certificate of the first one.
func (w *worker) dialTarget(ctx context.Context, name string, t *balance.Target, secure bool) (net.Conn, error) {
	s := w.config.Load()
	d, ok := s.policy.TargetRule(name)
	if !ok {
		return nil, fmt.Errorf("no rule has the upstream %s", name)
	}
	key := upstream.Key{Scheme: upstream.Clear, Host: t.Host, Port: t.Port}
	if secure {
		key.Scheme, key.Name, key.ALPN = upstream.TLS, t.Host, "http/1.1"
		if d.Certificate != nil {
			key.Client = s.certificates[d.Certificate]
		}
	}
	host, port := t.Host, t.Port
	proxy := d.ProxyTo(t.Host, t.Port)
	if proxy != nil {
		key.Proxy = s.proxies[proxy]
		if key.Proxy == nil {
			return nil, fmt.Errorf("the upstream proxy %s is not set up", proxy.URL())
		}
		host, port = key.Proxy.Host(), key.Proxy.Port()
	}
	all, err := w.resolver.Lookup(ctx, "", host)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be resolved: %w", host, err)
	}
	var route upstream.Route
	for _, a := range all {
		if w.own.Listener(netip.AddrPortFrom(a, port)) || s.policy.Proxied() && address.IsSynthetic(a) {
			continue
		}
		if proxy != nil || s.policy.PermitsTarget(name, a, w.own.Host) {
			route.Addrs = append(route.Addrs, a)
		}
	}
	if len(route.Addrs) == 0 {
		return nil, fmt.Errorf("none of the addresses of %s is of a class that a rule with this upstream lets be dialled", host)
	}
	conn, err := w.pool.Host(key).Dial(ctx, route, nil)
	if err != nil {
		// Not conn, which is a nil of its own type.
		return nil, err
	}
	return conn, nil
}

// targetChanged records that a target is healthy again, or no longer.
func (w *worker) targetChanged(c balance.Change) {
	text := fmt.Sprintf("upstream %s: the target %s is healthy again: %s", c.Upstream, c.Target, c.Why)
	if !c.Healthy {
		text = fmt.Sprintf("upstream %s: the target %s is unhealthy: %s", c.Upstream, c.Target, c.Why)
		w.log.Warn("target is unhealthy", zap.String("upstream", c.Upstream), zap.String("target", c.Target), zap.String("why", c.Why))
	} else {
		w.log.Info("target is healthy again", zap.String("upstream", c.Upstream), zap.String("target", c.Target))
	}
	w.audit.Record(&audit.Event{Kind: audit.Lifecycle, Message: text})
}

// targetHealth walks the targets for the metrics.
func (w *worker) targetHealth(yield func(metrics.Target) bool) {
	for u, t := range w.balance.Health() {
		if !yield(metrics.Target{Upstream: u, Target: t.Target, Healthy: t.Healthy}) {
			return
		}
	}
}

// targetProblems tells of the targets that are unhealthy.
func (w *worker) targetProblems() (all []string) {
	for u, t := range w.balance.Health() {
		if !t.Healthy {
			all = append(all, fmt.Sprintf("upstream %s: the target %s is unhealthy: %s", u, t.Target, t.Why))
		}
	}
	return all
}

// checkResource tells how many active checks run.
func (w *worker) checkResource() metrics.Resource {
	n, most := w.balance.Checks()
	return metrics.Resource{Name: "health_checks", Entries: uint64(max(n, 0)), Capacity: uint64(most)}
}
