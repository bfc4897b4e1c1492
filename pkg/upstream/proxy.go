package upstream

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/policy"
)

// ProxyOptions are what is configured of an upstream proxy.
type ProxyOptions struct {
	// TLS is set for a proxy that is itself spoken to by TLS (https://).
	TLS bool
	// Host is the canonical name or address of the proxy, which its certificate
	// must be for. The addresses to dial come with each Route.
	Host string
	Port uint16
	// Username and Password are sent with each CONNECT (Basic, RFC 7617); without
	// a name nothing is.
	Username, Password string
}

// A Proxy is an HTTP proxy that opens connections for us by CONNECT (RFC 9110
// section 9.3.6), told the name of the target. It is part of a Key by its
// address in memory: connections by two proxies, or by one with other
// credentials, never stand in for each other.
type Proxy struct {
	opt ProxyOptions
	// authorization is the value of Proxy-Authorization, "" for none.
	authorization string
	// id keeps TLS sessions apart.
	id string
}

// NewProxy gives a proxy; nothing is contacted.
func NewProxy(o ProxyOptions) *Proxy {
	p := &Proxy{opt: o}
	if o.Username != "" {
		p.authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(o.Username+":"+o.Password))
	}
	sum := sha256.Sum256([]byte(p.authorization))
	p.id = fmt.Sprintf("%t %s %d %x", o.TLS, o.Host, o.Port, sum[:16])
	return p
}

// Same reports whether both stand for the same proxy with the same credentials:
// then the older one is kept after a reload, with its connections.
func (p *Proxy) Same(q *Proxy) bool {
	return p != nil && q != nil && p.opt.TLS == q.opt.TLS && p.opt.Host == q.opt.Host && p.opt.Port == q.opt.Port &&
		subtle.ConstantTimeCompare([]byte(p.authorization), []byte(q.authorization)) == 1
}

// Host gives the name or address of the proxy, Port its port.
func (p *Proxy) Host() string { return p.opt.Host }

// Port gives the port of the proxy.
func (p *Proxy) Port() uint16 { return p.opt.Port }

// String gives the proxy as an address without credentials.
func (p *Proxy) String() string {
	scheme := "http://"
	if p.opt.TLS {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(p.opt.Host, strconv.Itoa(int(p.opt.Port)))
}

// port is where a connection of the key is dialled.
func (k *Key) port() uint16 {
	if k.Proxy != nil {
		return k.Proxy.opt.Port
	}
	return k.Port
}

// dialFailure types an error of connecting, and says whose address it was.
func (h *Host) dialFailure(err error, addr netip.Addr, tried int) *Error {
	e := dialError(err, addr, h.key.port(), tried)
	if h.key.Proxy != nil {
		e.Text = "the upstream proxy " + h.key.Proxy.String() + " is not reached: " + e.Text
	}
	return e
}

// through asks the proxy at the other end of c for a connection to the key's
// target. Afterwards c.Conn is that connection. again says that another address
// of the proxy could do better.
func (h *Host) through(ctx context.Context, c *Conn) (e *Error, again bool) {
	p := h.key.Proxy
	stop := context.AfterFunc(ctx, func() { c.tcp.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var peek func([]byte) (int, error)
	if p.opt.TLS {
		if e, again := h.shakeProxy(ctx, c); e != nil {
			return e, again
		}
	} else {
		peek = func(b []byte) (int, error) { return peekSocket(c.raw, b) }
	}
	target := net.JoinHostPort(h.key.Host, strconv.Itoa(int(h.key.Port)))
	head := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"
	if p.authorization != "" {
		head += "Proxy-Authorization: " + p.authorization + "\r\n"
	}
	if _, err := io.WriteString(c.Conn, head+"\r\n"); err != nil {
		return h.proxySilent(ctx, err)
	}
	answer, err := readConnectAnswer(c.Conn, peek)
	switch {
	case errors.Is(err, errNoAnswer):
		return &Error{Reason: policy.UpstreamUnreachable, Err: err, Text: fmt.Sprintf("the upstream proxy %s answered CONNECT %s with what is no HTTP: %v", p, target, err)}, false
	case err != nil:
		return h.proxySilent(ctx, err)
	case answer.status/100 != 2:
		return &Error{Reason: policy.UpstreamUnreachable, Text: p.refusal(h.key.Port, target, answer)}, false
	}
	if !stop() {
		return h.proxySilent(ctx, ctx.Err())
	}
	return nil, false
}

// shakeProxy opens TLS with the proxy itself.
func (h *Host) shakeProxy(ctx context.Context, c *Conn) (*Error, bool) {
	p := h.key.Proxy
	key := Key{Workload: h.key.Workload, Host: p.opt.Host, Port: p.opt.Port, Name: p.opt.Host, ALPN: "http/1.1"}
	trust := h.pool.trust.Load()
	r := &resumption{all: h.pool.sessions, key: sessionKey(key, trust.generation) + " proxy"}
	t := tls.Client(c.Conn, clientConfig(trust, key, r))
	if err := t.HandshakeContext(ctx); err != nil {
		e, again := tlsError(err, r, p.opt.Host, time.Now())
		e.Text = "the upstream proxy " + p.String() + ": " + e.Text
		return e, again
	}
	c.Conn, c.outer = t, t
	return nil, false
}

// proxySilent is a proxy that went away, or said nothing in time.
func (h *Host) proxySilent(ctx context.Context, err error) (*Error, bool) {
	e := &Error{Reason: policy.UpstreamUnreachable, Err: err}
	target := net.JoinHostPort(h.key.Host, strconv.Itoa(int(h.key.Port)))
	var errno syscall.Errno
	switch {
	case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
		e.Reason = policy.UpstreamTimeout
		e.Text = fmt.Sprintf("the upstream proxy %s did not answer CONNECT %s in time", h.key.Proxy, target)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		e.Text = fmt.Sprintf("the upstream proxy %s closed the connection without an answer to CONNECT %s", h.key.Proxy, target)
	case errors.As(err, &errno):
		e.Text = fmt.Sprintf("the upstream proxy %s failed at CONNECT %s: %s", h.key.Proxy, target, errno.Error())
	default:
		e.Text = fmt.Sprintf("the upstream proxy %s failed at CONNECT %s: %v", h.key.Proxy, target, err)
	}
	return e, true
}

// refusal tells what the proxy answered, and what to do where that is known.
func (p *Proxy) refusal(port uint16, target string, a connectAnswer) string {
	text := fmt.Sprintf("the upstream proxy %s answered CONNECT %s with %s", p, target, strings.TrimSpace(strconv.Itoa(a.status)+" "+a.phrase))
	if a.status == statusForbidden && port != portHTTPS {
		return text + " (many proxies allow CONNECT to port 443 only)"
	}
	if a.status != statusProxyAuthenticationRequired {
		return text
	}
	basic := false
	for _, scheme := range a.schemes {
		basic = basic || strings.EqualFold(scheme, "Basic")
	}
	switch {
	case len(a.schemes) > 0 && !basic:
		return text + ": it wants " + strings.Join(a.schemes, " or ") + ", and only Basic is spoken here"
	case p.authorization == "":
		return text + ": give upstream_proxy a username and a password_file"
	default:
		return text + ": it does not accept the username and password of upstream_proxy; reload after changing password_file"
	}
}

// Status codes of RFC 9110 section 15.5, and the port that every proxy lets
// through.
const (
	statusForbidden                   = 403
	statusProxyAuthenticationRequired = 407
	portHTTPS                         = 443
)

// peekSocket waits for bytes and copies them without taking them: what follows
// the answer belongs to the target, and may be read by splice(2).
func peekSocket(raw syscall.RawConn, p []byte) (n int, err error) {
	rerr := raw.Read(func(fd uintptr) bool {
		for {
			n, _, err = unix.Recvfrom(int(fd), p, unix.MSG_PEEK)
			switch err {
			case unix.EINTR:
			case unix.EAGAIN:
				return false
			default:
				return true
			}
		}
	})
	switch {
	case rerr != nil:
		return 0, rerr
	case err != nil:
		return 0, os.NewSyscallError("recvfrom", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
