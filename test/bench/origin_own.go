package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// originArgument makes this program the part of the origin that nginx cannot
// be: a certificate for whatever name is asked for, the addresses of all those
// names, events that say when they were sent, and the other end of HAProxy's log.
const originArgument = "--origin"

// The ports of our own origin: pages of its own, and where log lines go.
const (
	ownPort = 8082
	logPort = 5140
)

// serveOrigin serves all of it until its process is ended.
func serveOrigin() error {
	minter, err := newMinter("/srv/origin/ca.pem")
	if err != nil {
		return err
	}
	var lines atomic.Int64
	pages := http.NewServeMux()
	pages.HandleFunc("GET /lines", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, lines.Load()) })
	names := http.NewServeMux()
	body := []byte(small())
	names.HandleFunc("GET /small", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Write(body)
	})
	names.HandleFunc("GET /events", sendEvents)
	failed := make(chan error)
	go func() { failed <- answerNames() }()
	go func() { failed <- takeLines(&lines) }()
	go func() {
		l, err := net.Listen("tcp4", originOwnAddress+":443")
		if err != nil {
			failed <- err
			return
		}
		server := &http.Server{Handler: names, ErrorLog: nil, TLSConfig: &tls.Config{
			GetCertificate: minter.certificate, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
		}}
		failed <- server.ServeTLS(l, "", "")
	}()
	go func() {
		l, err := net.Listen("tcp4", fmt.Sprintf("%s:%d", originOwnAddress, ownPort))
		if err != nil {
			failed <- err
			return
		}
		failed <- http.Serve(l, pages)
	}()
	return <-failed
}

// A minter makes a certificate for each handshake of a new name: a program that
// copies the origin's certificate, as sslsplit does, must find a new one.
type minter struct {
	authority *authority
	key       *ecdsa.PrivateKey
	mu        sync.Mutex
	kept      map[string]*tls.Certificate // of names that come again
}

func newMinter(path string) (*minter, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	first, rest := pem.Decode(text)
	second, _ := pem.Decode(rest)
	if first == nil || second == nil {
		return nil, fmt.Errorf("%s: no certificate with its key", path)
	}
	c, err := x509.ParseCertificate(first.Bytes)
	if err != nil {
		return nil, err
	}
	signer, err := x509.ParsePKCS8PrivateKey(second.Bytes)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return &minter{authority: &authority{c, signer.(*ecdsa.PrivateKey)}, key: key, kept: make(map[string]*tls.Certificate)}, err
}

func (m *minter) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := hello.ServerName
	if name == "" {
		return nil, errors.New("no name")
	}
	m.mu.Lock()
	kept := m.kept[name]
	m.mu.Unlock()
	if kept != nil {
		return kept, nil
	}
	der, err := m.authority.issue(m.key, name)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: m.key}
	if !strings.HasSuffix(name, firstSuffix) {
		m.mu.Lock()
		m.kept[name] = c
		m.mu.Unlock()
	}
	return c, nil
}

// sendEvents sends an event each eventPause until the client goes.
func sendEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(eventPause)
	defer tick.Stop()
	for number := 1; ; number++ {
		fmt.Fprintf(w, "data: %d %d\n\n", number, monotonic())
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// answerNames is the DNS server: every name has the address of our own origin.
func answerNames() error {
	conn, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp4", originOwnAddress+":53")
	if err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		answer, err := answerName(buf[:n])
		if err != nil {
			continue // not a question
		}
		if _, err := conn.WriteTo(answer, from); err != nil {
			return err
		}
	}
}

func answerName(question []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(question)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true, Authoritative: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true})
	if err := errors.Join(b.StartQuestions(), b.Question(q), b.StartAnswers()); err != nil {
		return nil, err
	}
	if q.Type == dnsmessage.TypeA {
		var a dnsmessage.AResource
		copy(a.A[:], net.ParseIP(originOwnAddress).To4())
		if err := b.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, a); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// takeLines is the far end of a log: it counts lines.
func takeLines(lines *atomic.Int64) error {
	l, err := net.Listen("tcp4", fmt.Sprintf("%s:%d", originOwnAddress, logPort))
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			r := bufio.NewReaderSize(conn, 1<<16)
			for {
				_, err := r.ReadSlice('\n')
				switch err {
				case nil:
					lines.Add(1)
				case bufio.ErrBufferFull:
				case io.EOF:
					return
				default:
					return
				}
			}
		}()
	}
}
