package ratelimit

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valkey-io/valkey-go"

	"sallyport/pkg/config"
	"sallyport/test/port"
)

// TestCluster: the counters of a rule lie in one slot of a cluster.
func TestCluster(t *testing.T) {
	sameDay(t)
	r := startRedis(t, "--cluster-enabled", "yes")
	c, err := valkey.NewClient(valkey.ClientOption{InitAddress: []string{r.address}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Do(context.Background(), c.B().Arbitrary("CLUSTER", "ADDSLOTSRANGE", "0", "16383").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err := c.Do(context.Background(), c.B().Set().Key("x").Value("1").Build()).Error(); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	limits := []config.RateLimit{inRedis(0, 0, 0, 20), {Day: 1000, By: config.CounterKey{By: config.ByHost}, Policy: config.RedisCounters}}
	d := startDaemon(t, r.connect, limits)
	d.waitFor(t, true)
	d.Stage = New("a } rule {", limits, d.Counters)
	if n := d.ask(t, 50); n != 20 || !d.Counters.shared.Connected() {
		t.Errorf("%d admitted", n)
	}
}

// TestTLS: with a certificate that ca_file verifies, a user, a password and
// another db; with wrong ones Redis is away.
func TestTLS(t *testing.T) {
	sameDay(t)
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	private, kerr := x509.MarshalPKCS8PrivateKey(key)
	if err := errors.Join(err, kerr); err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	write := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	certFile := write("cert", ca)
	keyFile := write("key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	number := fmt.Sprint(port.Free(t))
	r := startRedis(t, "--tls-port", number, "--tls-cert-file", certFile, "--tls-key-file", keyFile, "--tls-ca-cert-file", certFile, "--tls-auth-clients", "no",
		"--user", "limiter", "on", ">pass-word", "~test:*", "-@all", "+eval", "+evalsha", "+hmget", "+hset", "+hincrby", "+ttl", "+expire", "+time", "+select", "+hello", "+cluster|slots", "+client")
	connect := r.connect
	connect.Address = net.JoinHostPort("127.0.0.1", number)
	connect.TLS, connect.CAFile, connect.CA, connect.Username, connect.Password, connect.DB = true, certFile, string(ca), "limiter", "pass-word", 3
	d := startDaemon(t, connect, []config.RateLimit{inRedis(0, 0, 0, 5)})
	d.waitFor(t, true)
	if n := d.ask(t, 9); n != 5 {
		t.Errorf("%d admitted", n)
	}
	for name, change := range map[string]func(*Server){
		"password": func(s *Server) { s.Password = "wrong" },
		"roots":    func(s *Server) { s.CA = "" },
	} {
		wrong := connect
		change(&wrong)
		if err := d.Counters.shared.Use(wrong); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d.Counters.shared.Connected() {
			t.Errorf("connected with the wrong %s", name)
		}
		if text := d.Counters.shared.Trouble(); !strings.Contains(text, " is away: ") {
			t.Errorf("wrong %s: the trouble is %q", name, text)
		}
	}
	wrong := connect
	wrong.CA = "nothing"
	if err := d.Counters.shared.Use(wrong); err == nil {
		t.Error("a ca_file without a certificate was accepted")
	}
	if err := d.Counters.shared.Use(connect); err != nil || !d.Counters.shared.Connected() || d.Counters.shared.Trouble() != "" {
		t.Errorf("not connected again: %v", err)
	}
}
