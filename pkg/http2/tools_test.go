package http2

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/pkg/exchange"
	"sallyport/test/port"
)

// tool finds a program of the distribution, or skips.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"/usr/bin", "/usr/sbin"} {
		if path := filepath.Join(dir, name); exec.Command(path, "--version").Run() == nil {
			return path
		}
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// echoHandler answers with what it was asked.
func echoHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Method", r.Method)
		w.Header().Set("Trailer", "X-Length")
		n, _ := io.Copy(w, r.Body)
		if n == 0 {
			n, _ = io.Copy(w, strings.NewReader(strings.Repeat("a", 1024)))
		}
		w.Header().Set("X-Length", fmt.Sprint(n))
	})
}

// TestCurl has curl speak with a gate, over TLS: our record writing and
// reading are those of production.
func TestCurl(t *testing.T) {
	curl := tool(t, "curl")
	_, g := newGate(t, echoHandler())
	cert, pemFile := selfSigned(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	addr := g.serve(t, l)
	file := filepath.Join(t.TempDir(), "data")
	data := bytes.Repeat([]byte("0123456789abcdef"), 300<<10/16)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(curl, append([]string{"-q", "--noproxy", "*", "-sS", "--max-time", "120", "--cacert", pemFile, "--http2", "-w", "\n%{http_version} %{response_code}"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	url := "https://" + addr + "/"
	if out := run(url); out != strings.Repeat("a", 1024)+"\n2 200" {
		t.Errorf("%q", out)
	}
	if out := run("--data-binary", "@"+file, url); out != string(data)+"\n2 200" {
		t.Errorf("%d bytes of %d: %q", len(out), len(data), out[max(len(out)-100, 0):])
	}
	if out := run("-H", "Expect: 100-continue", "--data-binary", "@"+file, url); out != string(data)+"\n2 200" {
		t.Errorf("%d bytes of %d", len(out), len(data))
	}
	if out := run("-I", url); !strings.Contains(out, "x-method: HEAD") {
		t.Errorf("%q", out)
	}
	if out := run("-Z", url+"1", url+"2", url+"3"); strings.Count(out, "2 200") != 3 {
		t.Errorf("%q", out)
	}
}

// TestNghttp has nghttp2's client and load generator speak with a gate whose
// upstream is nghttp2's server.
func TestNghttp(t *testing.T) {
	nghttpd, nghttp, h2load := tool(t, "nghttpd"), tool(t, "nghttp"), tool(t, "h2load")
	dir := t.TempDir()
	big := bytes.Repeat([]byte("sallyport "), 200<<10)
	for name, data := range map[string][]byte{"1k": bytes.Repeat([]byte("a"), 1024), "big": big} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	number := fmt.Sprint(port.Free(t))
	server := exec.Command(nghttpd, "--no-tls", "-d", dir, "--trailer", "x-end: yes", "--echo-upload", "-a", "127.0.0.1", number)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	upstream := "127.0.0.1:" + number
	waitFor(t, func() bool {
		nc, err := net.Dial("tcp", upstream)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	addr, _ := startGate(t, upstream)
	out, err := exec.Command(nghttp, "-v", "http://"+addr+"/big", "-H", "x-a: b").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("x-end: yes")) || !bytes.Contains(out, []byte(":status: 200")) {
		t.Errorf("%v %.2000s", err, out)
	}
	out, err = exec.Command(nghttp, "http://"+addr+"/big").Output()
	if err != nil || !bytes.Equal(out, big) {
		t.Errorf("%d bytes of %d, %v", len(out), len(big), err)
	}
	for _, args := range [][]string{
		{"-n", "20000", "-c", "2", "-m", "50", "http://" + addr + "/1k"},
		{"-n", "200", "-c", "2", "-m", "10", "-w", "16", "-W", "18", "http://" + addr + "/big"},
		{"-n", "2000", "-c", "2", "-m", "50", "-d", filepath.Join(dir, "1k"), "http://" + addr + "/1k"},
	} {
		out, err := exec.Command(h2load, args...).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte(args[1]+" succeeded, 0 failed, 0 errored, 0 timeout")) {
			t.Errorf("%v: %v %s", args, err, out)
		}
	}
}

// TestGoThroughTLS is the cross test with net/http over TLS with ALPN.
func TestGoThroughTLS(t *testing.T) {
	_, g := newGate(t, echoHandler())
	cert, _ := selfSigned(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	addr := g.serve(t, l)
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	data := bytes.Repeat([]byte("x"), 1<<20)
	resp, err := client.Post("https://"+addr+"/", "a/b", bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(body, data) || resp.ProtoMajor != 2 || resp.Trailer.Get("X-Length") != fmt.Sprint(len(data)) {
		t.Errorf("%d bytes, %v, %v", len(body), err, resp)
	}
}

// TestRefusedIsRetried has net/http open more streams than we take: it must be
// able to tell that they were not looked at.
func TestRefusedIsRetried(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	codec := new(Codec)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				srv := codec.Server(nc, ServerOptions{Exchanges: new(exchange.Pool), MaxStreams: 3})
				srv.Serve(t.Context(), answer1K)
				srv.Close()
			})
		}
	})
	tr := &http.Transport{Protocols: new(http.Protocols), MaxConnsPerHost: 1}
	tr.Protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: tr, Timeout: 2 * time.Minute}
	errs := make(chan error, 50)
	for range cap(errs) {
		go func() {
			resp, err := client.Get("http://" + l.Addr().String())
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	tr.CloseIdleConnections()
	l.Close()
	wg.Wait()
}

// selfSigned gives a certificate for 127.0.0.1 and the file that holds it.
func selfSigned(t testing.TB) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// served gives the number of requests whose handle runs or is to run.
func served(s *ServerConn) int {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.running + len(s.fresh)
}

// taken gives the number of places that streams have.
func taken(c *ClientConn) int {
	c.c.mu.Lock()
	defer c.c.mu.Unlock()
	return c.taken
}
