package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"time"

	"sallyport/pkg/http2"
	"sallyport/pkg/metrics"
	"sallyport/pkg/policy"
	"sallyport/pkg/policy/address"
	"sallyport/pkg/sniff"
)

// The alerts that we send before a handshake (RFC 8446 section 6.2, RFC 7301).
const (
	alertAccessDenied          = 49
	alertDecodeError           = 50
	alertInternalError         = 80
	alertUnrecognizedName      = 112
	alertNoApplicationProtocol = 120
)

// serverConfig is our side of inspected connections on which these protocols
// are spoken. Clients older than TLS 1.2 are refused by the handshake.
func serverConfig(leaves Leaves, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			named, ok := hello.Conn.(*namedConn)
			if !ok {
				return nil, errors.New("connection without a name")
			}
			return leaves.Certificate(named.name)
		},
	}
}

// choose gives our side of the handshake with a client, and what the upstream
// said of itself in HTTP/2 if it was asked. Where requests may pass, the client is
// offered what the upstream speaks; where none may, it takes the refusal in
// whatever it likes.
func (c *conn) choose(h *hop, hello *sniff.ClientHello, refused bool) (config *tls.Config, settings http2.PeerSettings) {
	if !offersHTTP(hello.ALPN) {
		// What it really speaks is seen inside.
		config = c.p.tls.Clone()
		config.NextProtos = hello.ALPN
		return config, settings
	}
	offer := httpOffer(hello.ALPN)
	if offer == http11 {
		return c.p.tls, settings
	}
	if refused {
		return c.p.tlsBoth, settings
	}
	m := c.mirror(h, offer)
	if m.protocol == http11 {
		return c.p.tls, settings
	}
	return c.p.tlsBoth, m.settings
}

// A namedConn carries the canonical name that was judged to the certificate.
type namedConn struct {
	*sniff.Conn
	name string
	// heard is what was overheard during the handshake, nil after it.
	heard *overheard
}

// Read implements net.Conn.
func (n *namedConn) Read(p []byte) (int, error) {
	got, err := n.Conn.Read(p)
	if n.heard != nil {
		n.heard.see(p[:got])
	}
	return got, err
}

// leafName is what the certificate of a hop is for. A client that gives no name
// may have asked for the address or for the name that our resolver told it for
// the address: the certificate holds both.
func (c *conn) leafName(h *hop) string {
	name := h.literal()
	if h.name == "" && h.addr.IsValid() {
		told, ok := c.p.Resolver.Name(c.id.Name, h.addr)
		switch {
		case !ok:
		case address.IsSynthetic(h.addr):
			name = told
		default:
			name = h.addr.Unmap().String() + " " + told
		}
	}
	return name
}

// inspect ends TLS with a leaf for the name and leaves what is inside to serve.
func (c *conn) inspect(h *hop, hello *sniff.ClientHello, refused bool) {
	sc, ok := h.conn.(*sniff.Conn)
	if !ok {
		sc = sniff.Replay(h.conn, nil)
	}
	config, settings := c.choose(h, hello, refused)
	named := &namedConn{Conn: sc, name: c.leafName(h), heard: new(overheard)}
	t := tls.Server(named, c.p.tickets.bind(config, c.p.Leaves, c.id.Name, named.name))
	if !c.enter(reading, time.Now()) {
		return
	}
	err := t.Handshake()
	err, named.heard = named.heard.explain(err), nil
	if err != nil {
		c.handshakeFailed(h, err)
		return
	}
	c.p.Metrics.Handshake(metrics.WorkloadSide, metrics.HandshakeOK)
	state := t.ConnectionState()
	c.ev.TLS.Version = tlsVersion(state.Version)
	c.ev.TLS.Handling = policy.Inspect.String()
	inner := &hop{conn: t, addr: h.addr, port: h.port, name: h.name, secure: true, failed: h.failed, depth: h.depth}
	switch state.NegotiatedProtocol {
	case http11:
		c.http = inner
	case h2:
		inner.http2, inner.offer, inner.settings = true, httpOffer(hello.ALPN), settings
		c.http = inner
	default:
		// TLS that names no protocol may carry anything, and what it names is no
		// promise.
		inner.alpn = state.NegotiatedProtocol
		c.enter(starting, time.Now())
		c.handle(inner)
	}
}

// handshakeFailed tells a client that does not trust us from one that broke
// off for another reason.
func (c *conn) handshakeFailed(h *hop, err error) {
	if rejected(err) {
		c.p.Metrics.Handshake(metrics.WorkloadSide, metrics.HandshakeRejected)
		c.recordRejected(h, err)
		return
	}
	c.p.Metrics.Handshake(metrics.WorkloadSide, metrics.HandshakeFailed)
	c.note("the TLS handshake with the workload failed: " + err.Error())
}

// rejected reports whether err is an alert by which a client says that it does
// not accept our certificate. The standard library keeps the numbers to itself.
func rejected(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return false
	}
	switch op.Err.Error() {
	case "tls: unknown certificate authority", "tls: bad certificate", "tls: unknown certificate",
		"tls: unsupported certificate", "tls: revoked certificate", "tls: expired certificate":
		return true
	default:
		return false
	}
}

// alert refuses TLS before its handshake; 0 resets instead.
func (c *conn) alert(h *hop, description byte) {
	if description == 0 {
		c.cut(h)
		return
	}
	c.tcp.SetWriteDeadline(time.Now().Add(time.Second))
	h.raw().Write([]byte{21, 3, 3, 0, 2, 2, description})
}

// cut makes the end of the workload's connection a reset.
func (c *conn) cut(h *hop) { reset(c.tcp) }

// raw is the connection that a hop reads from, for writing.
func (h *hop) raw() net.Conn {
	if sc, ok := h.conn.(*sniff.Conn); ok {
		return sc.Conn
	}
	return h.conn
}

func tlsVersion(v uint16) string {
	switch v {
	case tls.VersionTLS12:
		return "1.2"
	case tls.VersionTLS13:
		return "1.3"
	default:
		return ""
	}
}
