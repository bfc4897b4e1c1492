package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"sallyport/pkg/ca"
	"sallyport/pkg/config"
)

// authority makes a root in a directory of the test, and leaves of it.
func authority(t *testing.T) (*ca.Root, *ca.Leaves) {
	t.Helper()
	root, err := ca.OpenRoot(filepath.Join(t.TempDir(), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	material, err := root.Issue(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := ca.NewLeaves(material, 4)
	if err != nil {
		t.Fatal(err)
	}
	return root, leaves
}

// client fetches a URL with the given roots.
func client(roots *x509.CertPool) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 5 * time.Second}
}

// TestHandshake: a runtime that trusts the root is told from one that does not
// by what reaches the server, whatever the program says of itself.
func TestHandshake(t *testing.T) {
	root, leaves := authority(t)
	trusting := x509.NewCertPool()
	trusting.AddCert(root.Certificate())
	for _, c := range []struct {
		name  string
		fetch func(url string) error
		want  Status
	}{
		{"trusts", func(url string) error { _, err := client(trusting).Get(url); return err }, OK},
		{"does not", func(url string) error { _, err := client(x509.NewCertPool()).Get(url); return err }, Failed},
		{"says that it did", func(string) error { return nil }, Failed},
		{"trusts, but exits with an error", func(url string) error {
			client(trusting).Get(url)
			return errors.New("exit status 1")
		}, OK},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &Doctor{
				Serve: func() (*Handshakes, error) { return NewHandshakes(leaves) },
				Start: func(_ context.Context, argv, _ []string) (string, error) { return "", c.fetch(argv[len(argv)-1]) },
			}
			r := runtime{name: "curl", argv: func(u string) []string { return []string{"curl", u} }}
			got := d.handshake(t.Context(), r)
			if got.Status != c.want {
				t.Errorf("%+v, want %s", got, c.want)
			}
			if got.Status == Failed && (got.Remedy == "" || got.Detail == "") {
				t.Errorf("a failure without its reason or remedy: %+v", got)
			}
		})
	}
}

// TestAbsentRuntime: what is not installed is said, and is no failure.
func TestAbsentRuntime(t *testing.T) {
	d := &Doctor{}
	got := d.handshake(t.Context(), runtime{name: "x", probe: []string{"false"}})
	if got.Status != Skipped || got.Detail == "" {
		t.Errorf("%+v, want skipped with a reason", got)
	}
}

// dnsServer answers questions with reply, or not at all where it gives nil.
func dnsServer(t *testing.T, reply func(dnsmessage.Header) []byte) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var p dnsmessage.Parser
			h, err := p.Start(buf[:n])
			if err != nil {
				continue
			}
			if out := reply(h); out != nil {
				pc.WriteTo(out, from)
			}
		}
	}()
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

func answered(h dnsmessage.Header) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: h.ID, Response: true}}
	out, _ := m.Pack()
	return out
}

func TestDNS(t *testing.T) {
	good := dnsServer(t, answered)
	foreign := dnsServer(t, func(h dnsmessage.Header) []byte { h.ID++; return answered(h) })
	silent := dnsServer(t, func(dnsmessage.Header) []byte { return nil })
	for _, c := range []struct {
		name    string
		servers []netip.AddrPort
		want    Status
		says    string
	}{
		{"answers", []netip.AddrPort{good}, OK, good.String()},
		{"one of two is silent", []netip.AddrPort{silent, good}, OK, "silent"},
		{"answers something else", []netip.AddrPort{foreign}, Failed, "no DNS answer"},
		{"silent", []netip.AddrPort{silent}, Failed, "no answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			conf := config.Default(config.Observe)
			conf.DNS.Upstreams = c.servers
			got := (&Doctor{Config: conf}).dns(ctx)
			if got.Status != c.want || !strings.Contains(got.Detail, c.says) {
				t.Errorf("%+v, want %s saying %q", got, c.want, c.says)
			}
		})
	}
}

// TestRun: one failed check makes the host unwell; skipped ones do not.
func TestRun(t *testing.T) {
	d := &Doctor{Config: config.Default(config.Observe)}
	var names []string
	well, err := d.Run(t.Context(), func(r Result) error {
		names = append(names, r.Check)
		if r.Status == Failed && r.Remedy == "" {
			t.Errorf("%s failed without a remedy: %s", r.Check, r.Detail)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kernel", "cgroup2", "bpf", "nftables", "confinement", "dns"} {
		if !strings.Contains(strings.Join(names, " "), want) {
			t.Errorf("no check of %s in %v", want, names)
		}
	}
	t.Logf("well: %v", well)
}

func TestLastLine(t *testing.T) {
	for in, want := range map[string]string{"": "", "one\n": "one", "first\nlast\n\n": "last", strings.Repeat("x", 300): strings.Repeat("x", 200) + "…"} {
		if got := lastLine(in); got != want {
			t.Errorf("lastLine(%.20q) = %q", in, got)
		}
	}
}

func TestContainers(t *testing.T) {
	there, gone := filepath.Join(t.TempDir(), "there"), filepath.Join(t.TempDir(), "gone")
	l, err := net.Listen("unix", there)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if r := containers(t.Context(), []string{gone, there}); r.Status != OK || r.Detail != "engine at "+there {
		t.Errorf("%+v", r)
	}
	if r := containers(t.Context(), []string{gone}); r.Status != Skipped || !strings.Contains(r.Detail, gone+": no workload matches by container") {
		t.Errorf("%+v", r)
	}
}
