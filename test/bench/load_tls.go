package main

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// A dialer opens a job's TLS connections. The first one verifies the whole
// chain; those after it compare the leaf with the first one's, or its name and
// issuer where each connection has a new one: the client shall cost little. That
// the server holds the leaf's key is always verified.
type dialer struct {
	job      *job
	protocol string // ALPN
	newLeaf  bool   // each connection shows another leaf

	mu   sync.Mutex
	leaf []byte
	seen string // what was agreed on the first connection
}

// open makes a connection whose leaf is for name and signed by the job's issuer.
func (d *dialer) open(name string) (*tls.Conn, error) {
	tcp, err := net.DialTimeout("tcp", d.job.Address, operationTime)
	if err != nil {
		return nil, err
	}
	tcp.SetDeadline(time.Now().Add(operationTime))
	d.mu.Lock()
	first := d.leaf == nil
	d.mu.Unlock()
	curve := tls.X25519
	if d.job.P256 {
		curve = tls.CurveP256
	}
	// No tickets are kept: each handshake is a full one.
	conn := tls.Client(tcp, &tls.Config{
		ServerName: name, NextProtos: []string{d.protocol}, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{curve},
		InsecureSkipVerify: !first,
		VerifyConnection:   func(s tls.ConnectionState) error { return d.check(name, &s) },
	})
	if err := conn.Handshake(); err != nil {
		tcp.Close()
		return nil, err
	}
	return conn, nil
}

func (d *dialer) check(name string, s *tls.ConnectionState) error {
	leaf := s.PeerCertificates[0]
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leaf != nil && !d.newLeaf {
		if !bytes.Equal(d.leaf, leaf.Raw) {
			return fmt.Errorf("the leaf of %s is not the one before", name)
		}
		return nil
	}
	if bytes.Equal(d.leaf, leaf.Raw) {
		return fmt.Errorf("the leaf of %s is the one before", name)
	}
	d.leaf = leaf.Raw
	if err := leaf.VerifyHostname(name); err != nil {
		return err
	}
	if !strings.HasPrefix(leaf.Issuer.CommonName, d.job.Issuer) {
		return fmt.Errorf("the leaf of %s is signed by %q, not by %q", name, leaf.Issuer.CommonName, d.job.Issuer)
	}
	// A server without ALPN speaks HTTP/1.1, which its answers show.
	if s.NegotiatedProtocol != d.protocol && (s.NegotiatedProtocol != "" || d.protocol == "h2") {
		return fmt.Errorf("not spoken: %q was asked for by ALPN, %q is the answer", d.protocol, s.NegotiatedProtocol)
	}
	d.seen = fmt.Sprintf("%s, %s, %s, %s, %s", tls.VersionName(s.Version), tls.CipherSuiteName(s.CipherSuite), s.CurveID, keyName(leaf), cmp.Or(s.NegotiatedProtocol, "no ALPN"))
	return nil
}

func keyName(c *x509.Certificate) string {
	if k, ok := c.PublicKey.(*ecdsa.PublicKey); ok {
		return "ECDSA " + k.Curve.Params().Name
	}
	return c.PublicKeyAlgorithm.String()
}
