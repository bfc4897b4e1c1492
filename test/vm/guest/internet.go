package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// proxiedHeader is what the policy of the rows sets on every request that it
// lets through: one without it came directly.
const proxiedHeader = "X-Proxied"

// countSocket is in the file system, which the machine and its internet share.
const countSocket = "/run/vm/internet.sock"

// An internet is what lies beyond the machine's cable: DNS, HTTP and HTTPS under
// every name, and a port that no policy allows.
type internet struct {
	proxied, direct atomic.Int64 // requests, by proxiedHeader
	forbidden       atomic.Int64 // TCP connections to the port that no rule names
	datagrams       atomic.Int64 // UDP to the same port, and UDP to 443
	queries         atomic.Int64 // DNS, whoever asked
}

// runInternet serves until ctx ends. What has come so far is told, one
// `name number` a line, to who connects to countSocket.
func runInternet(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("internet", flag.ExitOnError)
	address := flags.String("address", "203.0.113.10", "the origin's `address`")
	name := flags.String("dns", "203.0.113.53", "the name server's `address`")
	authority := flags.String("ca", "/opt/vm/internet-ca.pem", "the `file` for the authority's certificate; key and certificate of a server behind it, made if it is not there")
	flags.Parse(args)
	certificate, err := serverCertificate(*authority)
	if err != nil {
		return err
	}
	n := &internet{}
	failed := make(chan error, 8)
	serve := func(f func() error) { go func() { failed <- f() }() }

	web := &http.Server{Handler: http.HandlerFunc(n.answer), ReadHeaderTimeout: time.Minute}
	clear, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	serve(func() error { return web.Serve(clear) })
	secure, err := tls.Listen("tcp", ":443", &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return err
	}
	serve(func() error { return web.Serve(secure) })
	forbidden, err := net.Listen("tcp", ":9000")
	if err != nil {
		return err
	}
	serve(func() error { return n.refuse(forbidden) })
	for _, p := range []string{":9000", ":443"} {
		c, err := net.ListenPacket("udp", p)
		if err != nil {
			return err
		}
		serve(func() error { return n.datagramsOf(c) })
	}
	names, err := net.ListenPacket("udp", *name+":53")
	if err != nil {
		return err
	}
	answer := net.ParseIP(*address).To4()
	serve(func() error { return n.resolve(names, [4]byte(answer)) })
	os.Remove(countSocket)
	told, err := net.Listen("unix", countSocket)
	if err != nil {
		return err
	}
	serve(func() error { return n.tell(told) })
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

func (n *internet) answer(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get(proxiedHeader) == "" {
		n.direct.Add(1)
	} else {
		n.proxied.Add(1)
	}
	io.Copy(io.Discard, r.Body)
	if r.URL.Path != "/stream" {
		fmt.Fprintf(w, "%s %s\n", r.Host, r.URL.Path)
		return
	}
	for i := 0; r.Context().Err() == nil; i++ {
		fmt.Fprintf(w, "%d\n", i)
		w.(http.Flusher).Flush()
		time.Sleep(100 * time.Millisecond)
	}
}

// refuse counts and closes what comes to the forbidden port.
func (n *internet) refuse(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		n.forbidden.Add(1)
		c.Write([]byte("leaked\n"))
		c.Close()
	}
}

func (n *internet) datagramsOf(c net.PacketConn) error {
	b := make([]byte, 2048)
	for {
		if _, _, err := c.ReadFrom(b); err != nil {
			return err
		}
		n.datagrams.Add(1)
	}
}

// tell writes the counts to whoever connects.
func (n *internet) tell(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Fprintf(c, "proxied %d\ndirect %d\nforbidden %d\ndatagrams %d\nqueries %d\n",
			n.proxied.Load(), n.direct.Load(), n.forbidden.Load(), n.datagrams.Load(), n.queries.Load())
		c.Close()
	}
}

// showCounts prints what tell tells.
func showCounts() error {
	c, err := net.Dial("unix", countSocket)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.Copy(os.Stdout, c)
	return err
}

// resolve gives every name the same address, and no IPv6.
func (n *internet) resolve(c net.PacketConn, address [4]byte) error {
	b := make([]byte, 2048)
	for {
		size, from, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		var query dnsmessage.Message
		if err := query.Unpack(b[:size]); err != nil || len(query.Questions) != 1 {
			continue
		}
		n.queries.Add(1)
		q := query.Questions[0]
		answer := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: query.ID, Response: true, RecursionDesired: query.RecursionDesired, RecursionAvailable: true},
			Questions: query.Questions,
		}
		if q.Type == dnsmessage.TypeA {
			answer.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.AResource{A: address},
			}}
		}
		out, err := answer.Pack()
		if err != nil {
			continue
		}
		c.WriteTo(out, from)
	}
}

// serverCertificate gives the certificate of a server of every name of
// example.com, and writes its authority's to a file.
func serverCertificate(file string) (tls.Certificate, error) {
	if _, err := os.Stat(file); err == nil {
		return tls.LoadX509KeyPair(file+".server", file+".server")
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the internet's authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{"example.com", "*.example.com"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, server, ca, key.Public(), caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	pair := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	if err := os.WriteFile(file+".server", pair, 0o600); err != nil {
		return tls.Certificate{}, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o644); err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(pair, pair)
}
