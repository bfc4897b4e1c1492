package ca

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func newLeaves(t testing.TB, capacity int) (*Root, *Leaves) {
	t.Helper()
	root := openRoot(t)
	m, err := root.Issue(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := NewLeaves(m, capacity)
	if err != nil {
		t.Fatal(err)
	}
	return root, leaves
}

func parseLeaf(t testing.TB, cert *tls.Certificate) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func TestLeafVerifies(t *testing.T) {
	root, leaves := newLeaves(t, 10)
	long := strings.Repeat("a", 60) + ".example.com" // no room in a common name
	for _, name := range []string{"api.github.com", "localhost", "_srv.example.com", long, "192.0.2.7", "2001:db8::1"} {
		cert, err := leaves.Certificate(name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		leaf := parseLeaf(t, cert)
		issuing, err := x509.ParseCertificate(cert.Certificate[1])
		if err != nil {
			t.Fatal(err)
		}
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(root.Certificate())
		between.AddCert(issuing)
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: between}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if leaf.VerifyHostname("other.example.com") == nil {
			t.Errorf("%s: good for another name", name)
		}
		if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 1 || len(leaf.AuthorityKeyId) == 0 || len(leaf.SubjectKeyId) == 0 {
			t.Errorf("%s: wrong usage or identifiers", name)
		}
		if d := time.Until(leaf.NotAfter); d > LeafLifetime || d < LeafLifetime-time.Minute {
			t.Errorf("%s: ends in %s", name, d)
		}
		if !leaf.NotBefore.Before(time.Now().Add(-30 * time.Minute)) {
			t.Errorf("%s: not backdated", name)
		}
	}
}

func TestLeafRefusesNames(t *testing.T) {
	_, leaves := newLeaves(t, 10)
	for _, name := range []string{"", ".", "a..b", "a.", ".a", "*.example.com", "UPPER.example.com", "a b", "192.0.2.7 192.0.2.8", "a.example 192.0.2.7", "192.0.2.7 ", " a.example", "192.0.2.7 a b", "a/b", "a\x00b",
		"ü.example.com", strings.Repeat("a", 64) + ".com", strings.Repeat("a.", 127) + "aaa", "fe80::1%eth0"} {
		if _, err := leaves.Certificate(name); !errors.Is(err, ErrName) {
			t.Errorf("%q: error %v", name, err)
		}
	}
	if leaves.Entries() != 0 {
		t.Errorf("%d refused names take places", leaves.Entries())
	}
}

func TestOneMintingPerName(t *testing.T) {
	_, leaves := newLeaves(t, 64)
	const names, askers = 8, 16
	certs := make([][askers]*tls.Certificate, names)
	var wg sync.WaitGroup
	for i := range names {
		for j := range askers {
			wg.Go(func() {
				cert, err := leaves.Certificate(fmt.Sprintf("n%d.example.com", i))
				if err != nil {
					t.Error(err)
				}
				certs[i][j] = cert
			})
		}
	}
	wg.Wait()
	for i := range certs {
		for j := range certs[i] {
			if certs[i][j] != certs[i][0] {
				t.Fatalf("name %d was minted more than once", i)
			}
		}
	}
	if leaves.Entries() != names || leaves.Capacity() != 64 {
		t.Errorf("%d of %d", leaves.Entries(), leaves.Capacity())
	}
}

// A name whose minting takes long holds up nobody who asks for another.
func TestMintingHoldsUpNoOther(t *testing.T) {
	_, leaves := newLeaves(t, 64)
	slow := new(leaf)
	leaves.names.Add("slow.example.com", slow)
	slow.mu.Lock()
	defer slow.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		_, err := leaves.Certificate("fast.example.com")
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("waits for another name")
	}
}

func TestLeavesAreBoundedAndRenewed(t *testing.T) {
	_, leaves := newLeaves(t, 3)
	now := time.Now()
	leaves.now = func() time.Time { return now }
	for i := range 10 {
		if _, err := leaves.Certificate(fmt.Sprintf("n%d.example.com", i)); err != nil {
			t.Fatal(err)
		}
	}
	if leaves.Entries() != 3 {
		t.Fatalf("%d entries", leaves.Entries())
	}
	first, _ := leaves.Certificate("n9.example.com")
	now = now.Add(LeafLifetime - leafRest - time.Minute)
	if again, _ := leaves.Certificate("n9.example.com"); again != first {
		t.Error("minted anew too early")
	}
	now = now.Add(2 * time.Minute)
	again, err := leaves.Certificate("n9.example.com")
	if err != nil || again == first {
		t.Errorf("an ending leaf was served again (%v)", err)
	}
}

func TestSetMaterial(t *testing.T) {
	root, leaves := newLeaves(t, 8)
	before, _ := leaves.Certificate("a.example.com")
	if err := leaves.SetMaterial(Material{}); err == nil {
		t.Fatal("empty material accepted")
	}
	m, err := root.Issue(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := leaves.SetMaterial(m); err != nil {
		t.Fatal(err)
	}
	if after, _ := leaves.Certificate("a.example.com"); after != before {
		t.Error("a good leaf was thrown away")
	}
	next, _ := leaves.Certificate("b.example.com")
	if string(next.Certificate[1]) == string(before.Certificate[1]) {
		t.Error("new leaf comes from the old issuing certificate")
	}
}

func TestExpiredIssuerMintsNothing(t *testing.T) {
	_, leaves := newLeaves(t, 8)
	leaves.now = func() time.Time { return time.Now().Add(IssuingLifetime + time.Hour) }
	if _, err := leaves.Certificate("a.example.com"); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("error %v", err)
	}
}

// serve answers TLS handshakes with the leaf of the name that is asked for.
func serve(t *testing.T, leaves *Leaves) (port string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		name := hello.ServerName
		if name == "" {
			name = "127.0.0.1"
		}
		return leaves.Certificate(name)
	}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(2 * time.Minute))
				conn.Read(make([]byte, 1024))
				conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"))
			})
		}
	})
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

const javaGet = `
import java.net.*; import java.io.*;
public class Get { public static void main(String[] a) throws Exception {
  InputStream in = new URL(a[0]).openStream(); System.out.print(new String(in.readAllBytes())); } }
`

// Real clients of the libraries that a workload may use, strict modes on.
func TestClientsAcceptLeaf(t *testing.T) {
	root, leaves := newLeaves(t, 10)
	port := serve(t, leaves)
	dir := t.TempDir()
	ca := filepath.Join(dir, "root.pem")
	write(t, ca, string(root.PEM()))
	write(t, filepath.Join(dir, "Get.java"), javaGet)
	store, err := javaStore([]javaEntry{{der: root.Certificate().Raw}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cacerts"), string(store))
	url := "https://localhost:" + port + "/"
	ip := "https://127.0.0.1:" + port + "/"
	python := `import ssl,sys,urllib.request
c=ssl.create_default_context(cafile=sys.argv[1]); c.verify_flags|=ssl.VERIFY_X509_STRICT
print(urllib.request.urlopen(sys.argv[2],context=c).read().decode())`
	for name, cmd := range map[string][]string{
		"openssl strict":  {"openssl", "s_client", "-x509_strict", "-verify_return_error", "-brief", "-CAfile", ca, "-verify_hostname", "localhost", "-servername", "localhost", "-connect", "127.0.0.1:" + port},
		"curl":            {"curl", "-sS", "--noproxy", "*", "--cacert", ca, url},
		"curl by address": {"curl", "-sS", "--noproxy", "*", "--cacert", ca, ip},
		"python strict":   {"python3", "-c", python, ca, url},
		"node":            {"node", "-e", `fetch(process.argv[1]).then(r=>r.text()).then(console.log,e=>{console.error(e);process.exit(1)})`, url},
		"gnutls (wget)":   {"wget", "-q", "--no-proxy", "--ca-certificate=" + ca, "-O", "-", url},
		"java":            {"java", "-Xint", "-Djavax.net.ssl.trustStore=" + filepath.Join(dir, "cacerts"), filepath.Join(dir, "Get.java"), ip}, // a JVM sends no SNI for localhost,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(cmd[0]); err != nil {
				t.Skipf("%s is not installed", cmd[0])
			}
			c := exec.CommandContext(t.Context(), cmd[0], cmd[1:]...)
			c.Env = append(withoutProxy(os.Environ()), "NODE_EXTRA_CA_CERTS="+ca)
			c.Stdin = strings.NewReader("GET / HTTP/1.0\r\n\r\n")
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

func withoutProxy(env []string) []string {
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if l := strings.ToLower(name); strings.HasSuffix(l, "_proxy") || l == "ssl_cert_file" || l == "node_extra_ca_certs" || l == "java_tool_options" || l == "node_options" {
			continue
		}
		out = append(out, e)
	}
	return out
}

func BenchmarkLeafMint(b *testing.B) {
	_, leaves := newLeaves(b, 1)
	is := leaves.issuer.Load()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := is.mint("api.example.com", time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLeafHit(b *testing.B) {
	_, leaves := newLeaves(b, 16)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := leaves.Certificate("api.example.com"); err != nil {
			b.Fatal(err)
		}
	}
}

// TestClockSetBack: a certificate from before the clock was set back is not valid
// yet, so another one is minted, as soon as the issuing one is renewed.
func TestClockSetBack(t *testing.T) {
	now := time.Now()
	dir := filepath.Join(t.TempDir(), "ca")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := createRoot(dir, now.Add(-72*time.Hour)); err != nil {
		t.Fatal(err)
	}
	root, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := root.Issue(now)
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := NewLeaves(m, 4)
	if err != nil {
		t.Fatal(err)
	}
	first, err := leaves.Certificate("api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	for _, back := range []time.Duration{30 * time.Minute, 90 * time.Minute} {
		set := now.Add(-back)
		leaves.now = func() time.Time { return set }
		// What the keeper does when it sees the clock being set.
		if m, err = root.Issue(set); err != nil {
			t.Fatal(err)
		}
		if err := leaves.SetMaterial(m); err != nil {
			t.Fatal(err)
		}
		c, err := leaves.Certificate("api.example.com")
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if leaf.NotBefore.After(set) {
			t.Errorf("%s back: a certificate that is valid from %s", back, leaf.NotBefore)
		}
		if again := c != first; again != (back > backdate) {
			t.Errorf("%s back: minted again: %v", back, again)
		}
	}
}
