package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// Bounds of how long Lookup uses an answer again.
	cacheFloor   = 5 * time.Second
	cacheCeiling = 5 * time.Minute
	// otherFamily is how long Lookup waits for the second address family when the
	// first is there: some servers never answer AAAA.
	otherFamily = time.Second
)

type cacheKey struct {
	from scope
	name string
	typ  dnsmessage.Type
}

// cached is an answer that Lookup may use until then; without addresses it is a
// negative one.
type cached struct {
	addrs []netip.Addr
	until time.Time
}

// resolve asks upstream, once for all who ask the same at the same time: a
// forger gets no more than one question to guess at. The context of the first
// asker does not end it for the others; time limits do.
func (r *Resolver) resolve(ctx context.Context, from scope, name string, typ dnsmessage.Type, do bool) (*answer, error) {
	key := from.String() + name + " " + strconv.Itoa(int(typ)) + " " + strconv.FormatBool(do)
	result := r.flight.DoChan(key, func() (any, error) {
		ctx := context.WithoutCancel(ctx)
		a, err := r.askOriginal(ctx, from, name, typ, do)
		if err != nil {
			a, err = r.upstreams.ask(ctx, name, typ, do)
		}
		if err == nil {
			r.remember(from, name, typ, a)
		}
		return a, err
	})
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	case res := <-result:
		a, _ := res.Val.(*answer)
		return a, res.Err
	}
}

// remember keeps an answer for Lookup.
func (r *Resolver) remember(from scope, name string, typ dnsmessage.Type, a *answer) {
	if typ != dnsmessage.TypeA && typ != dnsmessage.TypeAAAA {
		return
	}
	ttl := min(max(a.ttl, cacheFloor), cacheCeiling)
	if len(a.addrs) == 0 {
		ttl = min(ttl, maxNegativeTTL)
	}
	r.cache.Add(cacheKey{from, name, typ}, cached{addrs: a.addrs, until: r.now().Add(ttl)})
}

// Lookup gives the addresses of host for a workload: what /etc/hosts says, or
// else DNS, and then what the workload was told before and may still hold. The
// error wraps ErrNotFound or ErrUnavailable; without one there is at least one
// address. Host is canonical (lower case, no final dot). Whether the workload
// may resolve the name is the caller's question: Lookup asks upstream.
func (r *Resolver) Lookup(ctx context.Context, workload, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	name, ok := hostName(host)
	if !ok {
		return nil, fmt.Errorf("%q: %w", host, ErrNotFound)
	}
	if addrs := r.local(name); len(addrs) > 0 {
		return slices.Clone(addrs), nil
	}
	addrs, err := r.bothFamilies(ctx, r.original.scopeOf(workload), name)
	// Also where DNS fails now: these are addresses of the name, and the workload
	// has good reason to use them.
	for _, addr := range r.memory.addresses(workload, name, r.now()) {
		if !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	if r.reserved.Load() {
		addrs = withoutSynthetic(addrs)
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	if err == nil {
		err = ErrNotFound
	}
	return nil, fmt.Errorf("%s: %w", name, err)
}

// Name gives the name that addr stands for towards this workload, or else the
// one that it was last told addr for; "" and false if none that it may still
// hold.
func (r *Resolver) Name(workload string, addr netip.Addr) (string, bool) {
	names := r.Names(workload, addr)
	if len(names) == 0 {
		return "", false
	}
	return names[0], true
}

// Names gives all names that this workload was told addr for and may still
// hold, the last one first.
func (r *Resolver) Names(workload string, addr netip.Addr) []string {
	if name, ok := r.standins.name(workload, addr); ok {
		return []string{name}
	}
	return r.memory.names(workload, addr.Unmap(), r.now())
}

// local gives what is answered without DNS. /etc/hosts comes first, as in libc;
// localhost never leaves the host, RFC 6761 §6.3.
func (r *Resolver) local(name string) []netip.Addr {
	if addrs := r.hosts.get(r.now())[name]; len(addrs) > 0 {
		return addrs
	}
	if isLocalhost(name) {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	return nil
}

// bothFamilies asks for A and AAAA at once. One that fails does not spoil the
// other.
func (r *Resolver) bothFamilies(ctx context.Context, from scope, name string) ([]netip.Addr, error) {
	type result struct {
		v6    bool
		addrs []netip.Addr
		err   error
	}
	results := make(chan result, 2)
	var out [2]result
	pending := 0
	for i, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		if c, ok := r.cache.Get(cacheKey{from, name, typ}); ok && r.now().Before(c.until) {
			out[i] = result{addrs: c.addrs}
			continue
		}
		pending++
		out[i].err = ErrUnavailable
		go func() {
			a, err := r.resolve(ctx, from, name, typ, false)
			res := result{v6: typ == dnsmessage.TypeAAAA, err: err}
			if err == nil {
				res.addrs = a.addrs
			}
			results <- res
		}()
	}
	var late <-chan time.Time
	for ; pending > 0; pending-- {
		if len(out[0].addrs)+len(out[1].addrs) > 0 && late == nil {
			late = time.After(otherFamily)
		}
		select {
		case res := <-results:
			i := 0
			if res.v6 {
				i = 1
			}
			out[i] = res
		case <-late:
			pending = 1
		}
	}
	addrs := slices.Concat(out[0].addrs, out[1].addrs)
	if len(addrs) > 0 {
		return addrs, nil
	}
	return nil, errors.Join(out[0].err, out[1].err)
}
