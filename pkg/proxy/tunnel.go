package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"time"

	"sallyport/pkg/policy"
	"sallyport/pkg/sniff"
	"sallyport/pkg/tcpconn"
	"sallyport/pkg/upstream"
)

// relayBuffer is the memory of one direction where TLS lies above TCP: one
// record.
const relayBuffer = 16 << 10

// tunnel judges a connection whose bytes nobody looks at and forwards them. A
// refusal is the given TLS alert, or a reset.
func (c *conn) tunnel(h *hop, f *first, t *target, protocol policy.Protocol, alert byte) {
	defer f.drop()
	s := c.p.settings.Load()
	t.only = t.only && !f.elsewhere
	d, r, fail := c.work.decide(s, t, protocol, nil, time.Now())
	switch {
	case !d.Verdict.Passes():
		f.drop()
		c.alert(h, alert)
		c.refuseFlow(d, "")
		return
	case c.p.Audit.Healthy() != nil:
		f.drop()
		c.alert(h, alert)
		c.refuseFlow(c.ownDecision(policy.AuditUnavailable), "the audit cannot be written")
		return
	}
	u := f.ready
	if u != nil && (r == nil || r.target.scheme != c.schemeOf(u) || !r.host.Permits(r.way, u.Addr()) || !r.serves(u)) {
		f.drop()
		u, f.early = nil, nil
	}
	f.ready = nil
	// Who said nothing while the upstream was not reached may say anything now.
	unheard := u == nil && f.result.Silent && d.Handling != policy.Tunnel
	if u == nil && fail == nil {
		d, r, u, _, fail = c.reach(c.context(), s, t, protocol, d, r)
	}
	if fail != nil {
		if alert != 0 {
			alert = alertInternalError
		}
		c.alert(h, alert)
		c.ev.Upstream.IP, c.ev.Upstream.Attempts = fail.ip, fail.attempts
		refused := d
		refused.Verdict, refused.Reason = policy.Deny, fail.reason
		c.refuseFlow(refused, fail.text)
		return
	}
	c.ev.Upstream.Target, c.ev.Upstream.IP, c.ev.Upstream.Attempts = r.text, u.Addr(), max(u.Attempts(), 1)
	c.ev.TLS.UpstreamVersion = tlsVersion(u.TLSVersion())
	c.openFlow(h, policy.Tunnel, &d)
	c.quiet.Store(int64(d.Timeouts.StreamIdle))
	c.tunnelled.Store(true)
	c.use(u)
	client := h.conn
	var w *watched
	if unheard {
		w = &watched{Conn: h.conn, p: c.p}
		client = w
	}
	if c.enter(running, time.Now()) {
		c.relay(client, u, f.early)
	}
	c.use(nil)
	if w != nil && w.refused != nil {
		c.refuseFlow(c.ownDecision(policy.ProtocolDenied), "the workload sent HTTP or TLS only after its upstream was reached late, when nobody looks at it any more: connect again")
	}
	c.leg.Totals()
	u.Close()
}

func (c *conn) schemeOf(u *upstream.Conn) upstream.Scheme {
	if u.TLSVersion() != 0 {
		return upstream.TLS
	}
	return upstream.Clear
}

// relay copies both ways until both sides have ended, and gives the bytes. The
// end of one side is passed on as such; a failure of one side cuts the other,
// so that nobody takes a part for the whole.
func (c *conn) relay(client net.Conn, u *upstream.Conn, early []byte) (sent, received int64) {
	done := make(chan error, 1)
	go func() {
		n, err := c.copyTo(u, client)
		sent = n
		if err == nil {
			err = u.CloseWrite()
		}
		if err != nil {
			// The other direction notices: nothing more will come.
			u.SetLinger(0)
			u.Interrupt()
		}
		done <- err
	}()
	var err error
	if len(early) > 0 {
		var n int
		n, err = client.Write(early)
		received = int64(n)
	}
	if err == nil {
		var n int64
		n, err = c.copyTo(client, u)
		received += n
	}
	said := false
	if err == nil {
		err = closeWrite(client)
	} else if said = c.goodbye(client); said {
		err = nil
	}
	if err != nil {
		c.tcp.SetLinger(0)
		c.tcp.SetDeadline(time.Unix(1, 0))
	}
	if other := <-done; other != nil && !said {
		c.tcp.SetLinger(0)
	}
	return sent, received
}

// copyTo copies to the end of src.
func (c *conn) copyTo(dst, src net.Conn) (n int64, err error) {
	if sc, ok := src.(*sniff.Conn); ok {
		if n, err = replay(dst, sc); err != nil {
			return n, err
		}
	}
	var m int64
	to, from := plain(dst), plain(src)
	if to != nil && from != nil {
		m, err = tcpconn.Copy(to, from)
	} else {
		m, err = c.copyBuffered(dst, src)
	}
	return n + m, err
}

// plain gives the socket of a connection on which nothing lies above TCP, nil
// for any other.
func plain(conn net.Conn) *tcpconn.Conn {
	switch t := conn.(type) {
	case *tcpconn.Conn:
		return t
	case *sniff.Conn:
		return plain(t.Conn)
	case *upstream.Conn:
		if t.Bare() {
			return t.Socket()
		}
	}
	return nil
}

// replay writes what was sniffed and not yet read.
func replay(dst io.Writer, sc *sniff.Conn) (n int64, err error) {
	for {
		p := sc.Peeked()
		if len(p) == 0 {
			return n, nil
		}
		m, err := dst.Write(p)
		n += int64(m)
		if err != nil {
			return n, err
		}
		if _, err := io.ReadFull(sc, make([]byte, m)); err != nil {
			return n, err
		}
	}
}

func (c *conn) copyBuffered(dst io.Writer, src io.Reader) (total int64, err error) {
	b := c.p.buffers.Get().(*[]byte)
	defer c.p.buffers.Put(b)
	for {
		n, err := src.Read(*b)
		if n > 0 {
			m, werr := dst.Write((*b)[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		switch {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

func closeWrite(conn net.Conn) error {
	switch t := conn.(type) {
	case *watched:
		return closeWrite(t.Conn)
	case *sniff.Conn:
		return closeWrite(t.Conn)
	case *tls.Conn:
		return t.CloseWrite()
	case *tcpconn.Conn:
		return t.CloseWrite()
	case *net.TCPConn:
		return t.CloseWrite()
	default:
		return conn.Close()
	}
}
