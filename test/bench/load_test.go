package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testIssuer signs for the servers of these tests; the system's certificates
// are it alone.
const testIssuer = "Test Authority"

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "bench")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		a, err := newAuthority(testIssuer)
		if err != nil {
			panic(err)
		}
		certificate, withKey, err := a.pem()
		if err != nil {
			panic(err)
		}
		root := filepath.Join(dir, "root.pem")
		if err := os.WriteFile(root, certificate, 0o600); err != nil {
			panic(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "ca.pem"), withKey, 0o600); err != nil {
			panic(err)
		}
		os.Setenv("SSL_CERT_FILE", root)
		os.Setenv("SSL_CERT_DIR", dir)
		return m.Run()
	}())
}

// serve starts a TLS server with a leaf that lasts, or a new one for each name.
func serve(t *testing.T, http2 bool, handler http.HandlerFunc) (address string) {
	t.Helper()
	m, err := newMinter(filepath.Join(os.Getenv("SSL_CERT_DIR"), "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = http2
	s.TLS = &tls.Config{GetCertificate: m.certificate}
	s.StartTLS()
	// httptest brings a certificate of its own, which would come first.
	s.TLS.Certificates = nil
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func answer(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/events":
		sendEvents(w, r)
	default:
		w.Header().Set(originProtocol, r.Proto)
		fmt.Fprint(w, small())
	}
}

func ready() error { return nil }

func TestLoads(t *testing.T) {
	http1, both := serve(t, false, answer), serve(t, true, answer)
	other := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(originProtocol, r.Proto)
		fmt.Fprint(w, strings.ToUpper(small()))
	})
	long := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(originProtocol, r.Proto)
		fmt.Fprint(w, small()+"x")
	})
	refusing := serve(t, true, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	downgraded := serve(t, true, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(originProtocol, "HTTP/1.1")
		fmt.Fprint(w, small())
	})
	for _, c := range []struct {
		name, kind, address, issuer, host string
		failure                           string // "" for none
	}{
		{"keep-alive", keepAlive, http1, testIssuer, inspectName, ""},
		{"a connection each", connect, http1, testIssuer, inspectName, ""},
		{"new names", newNames, http1, testIssuer, firstSuffix, ""},
		{"idle", idle, http1, testIssuer, inspectName, ""},
		{"events", events, http1, testIssuer, eventsName, ""},
		{"HTTP/2", multiplex, both, testIssuer, h2Name, ""},
		{"another issuer", keepAlive, http1, originIssuer, inspectName, `signed by "Test Authority", not by "Benchmark Origin"`},
		{"another issuer, HTTP/2", multiplex, both, originIssuer, h2Name, `signed by "Test Authority", not by "Benchmark Origin"`},
		{"another body", keepAlive, other, testIssuer, inspectName, "another body"},
		{"another body, HTTP/2", multiplex, other, testIssuer, h2Name, "another body"},
		{"a longer body", connect, long, testIssuer, inspectName, "another body"},
		{"a longer body, HTTP/2", multiplex, long, testIssuer, h2Name, "another body"},
		{"refused", keepAlive, refusing, testIssuer, inspectName, "403"},
		{"refused, HTTP/2", multiplex, refusing, testIssuer, h2Name, "403"},
		{"HTTP/2 to the client only", multiplex, downgraded, testIssuer, h2Name, `asked in "HTTP/1.1"`},
		{"HTTP/2 not spoken", multiplex, http1, testIssuer, h2Name, "no application protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := job{Kind: c.kind, Address: c.address, Name: c.host, Issuer: c.issuer, Connections: 2, Streams: 8, Window: 50 * time.Millisecond}
			r, err := j.run(ready)
			if c.failure != "" {
				if err == nil || !strings.Contains(err.Error(), c.failure) {
					t.Fatalf("error %v, want %q", err, c.failure)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Requests == 0 || r.All == 0 || !strings.HasPrefix(r.TLS, "TLS 1.3, TLS_AES_128_GCM_SHA256, X25519, ECDSA P-256, ") {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestNewLeaf: a proxy that shows one leaf for all names has minted nothing, and
// one that shows another leaf for the same name has nothing cached.
func TestNewLeaf(t *testing.T) {
	m, err := newMinter(filepath.Join(os.Getenv("SSL_CERT_DIR"), "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(answer), TLSConfig: &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		der, err := m.authority.issue(key, h.ServerName)
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
	}}}
	go s.ServeTLS(l, "", "")
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	j := job{Kind: connect, Address: l.Addr().String(), Name: inspectName, Issuer: testIssuer, Connections: 1, Window: time.Millisecond}
	if _, err := j.run(ready); err == nil || !strings.Contains(err.Error(), "not the one before") {
		t.Errorf("a new leaf each time: %v", err)
	}
}

func TestPlainLoads(t *testing.T) {
	body := block()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(largeSize))
		for range largeSize / blockSize {
			w.Write(body)
		}
	}))
	defer s.Close()
	address := s.Listener.Addr().String()
	for _, kind := range []string{plainBulk, dial} {
		j := job{Kind: kind, Address: address, Name: inspectName, Connections: 1, Window: 20 * time.Millisecond}
		if r, err := j.run(ready); err != nil || r.Requests == 0 || r.Wall == 0 {
			t.Errorf("%s: %+v, %v", kind, r, err)
		}
	}
	body[blockSize-1]++
	j := job{Kind: plainBulk, Address: address, Name: inspectName, Connections: 1, Window: time.Millisecond}
	if _, err := j.run(ready); err == nil || !strings.Contains(err.Error(), "the body differs after") {
		t.Errorf("one wrong byte: %v", err)
	}
}
