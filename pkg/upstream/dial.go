package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"
)

// stagger is the Connection Attempt Delay of RFC 8305 section 5.
const stagger = 250 * time.Millisecond

// leastStagger is the least delay that RFC 8305 section 5 permits.
const leastStagger = 10 * time.Millisecond

// maxAddrs bounds how many addresses of one name are tried. The largest answer
// seen in the field has 32; a hostile zone must not make us knock at hundreds.
const maxAddrs = 32

var errNoAddress = errors.New("no address to dial")

// newDialer gives a dialer of plain TCP sockets. Multipath TCP is refused
// because its subflows would leave from and go to addresses nobody judged.
// Keep-alive finds upstreams that vanished without a word under streams that
// are silent for hours: 3 probes, 15 s apart, after 30 s of silence.
func newDialer() *net.Dialer {
	d := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second, Count: 3},
		FallbackDelay:   -1,
	}
	d.SetMultipathTCP(false)
	return d
}

// order gives the addresses of a route in the order in which they are tried,
// without repeats: the workload's own first, else the best by RFC 6724, and then
// the families in turn (RFC 8305 section 4). Where the workload's own is of a
// family that lately did not work, the other family goes first.
func order(r Route, lost family, source sourceOf) []netip.Addr {
	rest := slices.Clone(r.Addrs)
	sortBySelection(rest, source)
	if i := slices.Index(rest, r.Own); i > 0 {
		rest = slices.Insert(slices.Delete(rest, i, i+1), 0, r.Own)
	}
	out := make([]netip.Addr, 0, min(len(rest), maxAddrs))
	want := anyFamily
	if lost != anyFamily {
		want = lost.other()
	}
	for len(rest) > 0 && len(out) < maxAddrs {
		pick := max(slices.IndexFunc(rest, func(a netip.Addr) bool { return want == anyFamily || familyOf(a) == want }), 0)
		a := rest[pick]
		rest = slices.Delete(rest, pick, pick+1)
		if slices.Contains(out, a) {
			continue
		}
		out, want = append(out, a), familyOf(a).other()
	}
	return out
}

type dialled struct {
	conn *net.TCPConn
	addr netip.Addr
	err  error
}

// dial tries the addresses in their order, each one stagger after the one
// before or as soon as that has failed, and gives the first connection. It
// returns after every attempt that it started has ended. attempts counts those.
func dial(ctx context.Context, d *net.Dialer, addrs []netip.Addr, port uint16) (conn *net.TCPConn, addr netip.Addr, attempts int, err error) {
	if len(addrs) == 0 {
		return nil, addr, 0, errNoAddress
	}
	if len(addrs) == 1 {
		c, err := d.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(addrs[0], port))
		return c, addrs[0], 1, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan dialled, len(addrs))
	start := func(a netip.Addr) {
		attempts++
		go func() {
			c, err := d.DialTCP(ctx, "tcp", netip.AddrPort{}, netip.AddrPortFrom(a, port))
			results <- dialled{c, a, err}
		}()
	}
	delay := stagger
	if until, ok := ctx.Deadline(); ok {
		// All are tried within the bound, even if each of them stays silent.
		delay = min(delay, time.Until(until)/time.Duration(2*len(addrs)))
	}
	timer := time.NewTimer(max(delay, leastStagger))
	defer timer.Stop()
	start(addrs[0])
	next, pending := 1, 1
	var first error
	var won dialled
	for pending > 0 || (won.conn == nil && next < len(addrs)) {
		select {
		case <-timer.C:
			if won.conn == nil && next < len(addrs) && ctx.Err() == nil {
				start(addrs[next])
				next, pending = next+1, pending+1
				timer.Reset(max(delay, leastStagger))
			}
		case r := <-results:
			pending--
			switch {
			case r.err == nil && won.conn == nil:
				won = r
				cancel()
			case r.err == nil:
				r.conn.Close()
			case won.conn == nil:
				if first == nil {
					first = r.err
				}
				if next < len(addrs) && ctx.Err() == nil {
					start(addrs[next])
					next, pending = next+1, pending+1
					timer.Reset(max(delay, leastStagger))
				}
			}
			if pending == 0 && ctx.Err() != nil {
				next = len(addrs)
			}
		}
	}
	if won.conn != nil {
		return won.conn, won.addr, attempts, nil
	}
	if first == nil {
		first = ctx.Err()
	}
	return nil, addrs[0], attempts, first
}
