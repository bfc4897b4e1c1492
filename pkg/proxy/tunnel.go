package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"time"

	"sallyport/pkg/policy"
	"sallyport/pkg/sniff"
	"sallyport/pkg/upstream"
)

// relayBuffer is the memory of one direction where splice(2) cannot be used:
// one TLS record.
const relayBuffer = 16 << 10

// tunnel judges a connection whose bytes nobody looks at and forwards them. A
// refusal is the given TLS alert, or a reset.
func (c *conn) tunnel(h *hop, f *first, t *target, protocol policy.Protocol, alert byte) {
	defer f.drop()
	s := c.p.settings.Load()
	d, r, fail := c.decide(s, t, protocol, nil, time.Now())
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
	if u != nil && (r == nil || r.target.scheme != c.schemeOf(u) || !r.way.Permits(u.Addr())) {
		f.drop()
		u = nil
	}
	f.ready = nil
	if u == nil && fail == nil {
		u, fail = c.connect(r)
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
	if c.enter(running, time.Now()) {
		c.relay(h.conn, u, f.early)
	}
	c.use(nil)
	c.leg.Totals()
	u.Close()
}

func (c *conn) schemeOf(u *upstream.Conn) upstream.Scheme {
	if u.TLSVersion() != 0 {
		return upstream.TLS
	}
	return upstream.Clear
}

// relay copies both ways until both sides have ended. The end of one side is
// passed on as such; a failure of one side cuts the other, so that nobody takes
// a part for the whole.
func (c *conn) relay(client net.Conn, u *upstream.Conn, early []byte) {
	done := make(chan error, 1)
	go func() {
		err := c.copyTo(u, u.TCP(), client)
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
		_, err = client.Write(early)
	}
	if err == nil {
		err = c.copyTo(client, nil, u)
	}
	if err == nil {
		err = closeWrite(client)
	}
	if err != nil {
		c.tcp.SetLinger(0)
		c.tcp.SetDeadline(time.Unix(1, 0))
	}
	if other := <-done; other != nil {
		c.tcp.SetLinger(0)
	}
}

// copyTo copies to the end of src, by splice(2) where both sides are plain TCP.
func (c *conn) copyTo(dst net.Conn, dstTCP *net.TCPConn, src net.Conn) error {
	if u, ok := src.(*upstream.Conn); ok && u.TLSVersion() == 0 {
		src = u.TCP()
	}
	if u, ok := dst.(*upstream.Conn); ok && u.TLSVersion() == 0 {
		dst = dstTCP
	}
	if sc, ok := src.(*sniff.Conn); ok {
		if err := replay(dst, sc); err != nil {
			return err
		}
		src = sc.Conn
	}
	if sc, ok := dst.(*sniff.Conn); ok {
		dst = sc.Conn
	}
	if to, ok := dst.(*net.TCPConn); ok {
		if from, ok := src.(*net.TCPConn); ok {
			_, err := to.ReadFrom(from)
			return err
		}
	}
	return c.copyBuffered(dst, src)
}

// replay writes what was sniffed and not yet read.
func replay(dst io.Writer, sc *sniff.Conn) error {
	for len(sc.Peeked()) > 0 {
		var b [4096]byte
		n, err := sc.Read(b[:min(len(b), len(sc.Peeked()))])
		if err != nil {
			return err
		}
		if _, err := dst.Write(b[:n]); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) copyBuffered(dst io.Writer, src io.Reader) error {
	b := c.p.buffers.Get().(*[]byte)
	defer c.p.buffers.Put(b)
	for {
		n, err := src.Read(*b)
		if n > 0 {
			if _, werr := dst.Write((*b)[:n]); werr != nil {
				return werr
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

func closeWrite(conn net.Conn) error {
	switch t := conn.(type) {
	case *sniff.Conn:
		return closeWrite(t.Conn)
	case *tls.Conn:
		return t.CloseWrite()
	case *net.TCPConn:
		return t.CloseWrite()
	default:
		return conn.Close()
	}
}
