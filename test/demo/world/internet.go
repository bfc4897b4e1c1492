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
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// The addresses of the internet, from the range for documentation (RFC 5737).
const (
	dnsAddress     = "203.0.113.53"
	apiAddress     = "203.0.113.10"
	trackerAddress = "203.0.113.66"
)

// internet answers DNS and HTTPS until it is told to stop, then writes into
// DIR/arrived what reached it. It is ready when DIR/ca.pem is there.
func internet(ctx context.Context, dir string) error {
	names := map[string]string{"api.weather.example.": apiAddress, "collect.tracker.example.": trackerAddress}
	pc, err := net.ListenPacket("udp", dnsAddress+":53")
	if err != nil {
		return err
	}
	defer pc.Close()
	go answerNames(pc, names)

	var tracked atomic.Int64
	stray, err := net.ListenPacket("udp", trackerAddress+":443")
	if err != nil {
		return err
	}
	defer stray.Close()
	go func() {
		for b := make([]byte, 2048); ; tracked.Add(1) {
			if _, _, err := stray.ReadFrom(b); err != nil {
				return
			}
		}
	}()

	ca, err := newAuthority()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var arrived []string
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			arrived = append(arrived, fmt.Sprintf("%s https://%s%s", r.Method, r.Host, r.URL.RequestURI()))
			mu.Unlock()
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"city":%q,"temperature":4,"sky":"light rain"}`, r.URL.Query().Get("city"))
		}),
		ConnState: func(c net.Conn, s http.ConnState) {
			if host, _, _ := net.SplitHostPort(c.LocalAddr().String()); s == http.StateNew && host == trackerAddress {
				tracked.Add(1)
			}
		},
		TLSConfig: &tls.Config{GetCertificate: ca.certificate},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	ln, err := net.Listen("tcp", ":443")
	if err != nil {
		return err
	}
	go server.ServeTLS(ln, "", "")
	defer server.Close()
	// Written under another name first: whoever sees the file sees all of it.
	temp := filepath.Join(dir, "ca.new")
	if err := os.WriteFile(temp, ca.pem, 0o644); err != nil {
		return err
	}
	if err := os.Rename(temp, filepath.Join(dir, "ca.pem")); err != nil {
		return err
	}
	<-ctx.Done()

	mu.Lock()
	defer mu.Unlock()
	f, err := os.Create(filepath.Join(dir, "arrived"))
	if err != nil {
		return err
	}
	for _, line := range arrived {
		fmt.Fprintln(f, "api.weather.example got      "+line)
	}
	fmt.Fprintf(f, "collect.tracker.example got  %d packets\n", tracked.Load())
	return f.Close()
}

// answerNames answers questions for addresses of names; others do not exist.
func answerNames(pc net.PacketConn, names map[string]string) {
	for b := make([]byte, 4096); ; {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
		addr, ok := names[q.Name.String()]
		switch {
		case !ok:
			m.RCode = dnsmessage.RCodeNameError
		case q.Type == dnsmessage.TypeA:
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.AResource{A: [4]byte(net.ParseIP(addr).To4())},
			}}
		}
		if out, err := m.Pack(); err == nil {
			pc.WriteTo(out, from)
		}
	}
}

// An authority signs a certificate for every name that is asked for.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Demo Internet Authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

func (a *authority) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: hello.ServerName},
		DNSNames: []string{hello.ServerName}, NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
