package upstream

import (
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Totals are the kernel's counters of one TCP connection, or a sum of several.
type Totals struct {
	BytesSent, BytesReceived, Segments, Retransmits uint64
	// RTT is the smoothed round-trip time last seen.
	RTT time.Duration
}

func (t *Totals) add(now, base Totals) {
	// After a reset the kernel's count may end one lower than it was, see
	// ReadTotals.
	now.BytesReceived = max(now.BytesReceived, base.BytesReceived)
	t.BytesSent += now.BytesSent - base.BytesSent
	t.BytesReceived += now.BytesReceived - base.BytesReceived
	t.Segments += now.Segments - base.Segments
	t.Retransmits += now.Retransmits - base.Retransmits
	t.RTT = now.RTT
}

// ReadTCPInfo asks the kernel for TCP_INFO of a connection.
func ReadTCPInfo(rc syscall.RawConn) (*unix.TCPInfo, error) {
	var info *unix.TCPInfo
	var err error
	if cerr := rc.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); cerr != nil {
		return nil, cerr
	}
	return info, err
}

// The states of TCP (include/net/tcp_states.h) in which the peer has ended its
// side.
const (
	tcpTimeWait  = 6
	tcpClose     = 7
	tcpCloseWait = 8
	tcpLastAck   = 9
	tcpClosing   = 11
)

// ReadTotals gives the counters of a connection. Bytes sent are payload
// without retransmissions (tcpi_bytes_sent counts those, Linux 4.19).
func ReadTotals(rc syscall.RawConn) (Totals, error) {
	info, err := ReadTCPInfo(rc)
	if err != nil {
		return Totals{}, err
	}
	received := info.Bytes_received
	switch info.State {
	case tcpClose, tcpTimeWait, tcpCloseWait, tcpLastAck, tcpClosing:
		// The peer's FIN takes a sequence number and is counted as a byte. In
		// TCP_CLOSE a reset may have come in its place, which the kernel does
		// not tell apart any more; the count is then one too low.
		received = max(received, 1) - 1
	}
	return Totals{
		BytesSent:     info.Bytes_sent - info.Bytes_retrans,
		BytesReceived: received,
		Segments:      uint64(info.Segs_out) + uint64(info.Segs_in),
		Retransmits:   uint64(info.Total_retrans),
		RTT:           time.Duration(info.Rtt) * time.Microsecond,
	}, nil
}

// A Leg sums the upstream side of one flow, over every connection that served
// it. A pooled connection is charged to the flow that uses it; the kernel is
// asked only when it passes to another flow or closes, not on each exchange.
type Leg struct {
	mu   sync.Mutex
	sum  Totals
	last *Conn
}

// Totals gives the sum so far, what is still in use included.
func (l *Leg) Totals() Totals {
	l.mu.Lock()
	last := l.last
	l.mu.Unlock()
	if last != nil {
		last.settle(l)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum
}

func (l *Leg) charge(now, base Totals) {
	l.mu.Lock()
	l.sum.add(now, base)
	l.mu.Unlock()
}

// use makes c the connection that the flow holds and settles the one before.
func (l *Leg) use(c *Conn) {
	l.mu.Lock()
	last := l.last
	l.last = c
	l.mu.Unlock()
	if last != nil && last != c {
		last.settle(l)
	}
}
