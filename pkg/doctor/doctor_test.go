package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"sallyport/pkg/admin"
	"sallyport/pkg/ca"
	"sallyport/pkg/config"
	"sallyport/pkg/systemd"
	"sallyport/test/port"
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
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: time.Minute}
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

// TestMatrix: each client of which it is known what it trusts has its row, and a row
// that fails says what to do.
func TestMatrix(t *testing.T) {
	_, leaves := authority(t)
	d := &Doctor{
		Serve: func() (*Handshakes, error) { return NewHandshakes(leaves) },
		Start: func(context.Context, []string, []string) (string, error) {
			return "certificate verify failed", errors.New("exit status 1")
		},
	}
	var names []string
	for _, c := range d.runtimes() {
		names = append(names, strings.TrimPrefix(c.name, "trust: "))
	}
	for _, want := range []string{
		"go", "python-urllib", "python-requests", "pip", "botocore", "python-httpx", "node-fetch", "node-https", "npm", "deno", "bun", "java",
		"curl", "openssl", "git", "wget", "cargo", "uv", "php", "perl-lwp", "ruby", "rust-webpki-roots",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("no row for %s", want)
		}
	}
	for _, r := range runtimes() {
		r.probe = nil
		got := d.handshake(t.Context(), r)
		if got.Status != Failed || !strings.Contains(got.Remedy, "handling: tunnel") || !strings.Contains(got.Remedy, r.name) || !strings.Contains(got.Detail, "certificate verify failed") {
			t.Errorf("%s: %+v", r.name, got)
		}
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
			t.Parallel() // silence lasts
			conf := config.Default(config.Observe)
			conf.DNS.Upstreams = c.servers
			got := (&Doctor{Config: conf}).dns(t.Context())
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
		if (r.Status == Failed || r.Status == Warned) && r.Remedy == "" {
			t.Errorf("%s: %s without a remedy: %s", r.Check, r.Status, r.Detail)
		}
		if r.Section == "" || r.Check == "" || r.Detail == "" {
			t.Errorf("%+v", r)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kernel", "cgroup2", "bpf", "bpffs", "nftables", "locks", "namespaces", "sockets", "confinement", "capabilities", "clock", "disk", "dns", "other software", "units", "account", "group", "listeners", "authority", "daemon", "engines"} {
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
	silent, gone, there := filepath.Join(t.TempDir(), "silent"), filepath.Join(t.TempDir(), "gone"), filepath.Join(t.TempDir(), "there")
	l, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	if r := containers(t.Context(), []string{gone, silent}); len(r) != 1 || r[0].Status != Warned || r[0].Remedy == "" {
		t.Errorf("%+v", r)
	}
	if r := containers(t.Context(), []string{gone}); len(r) != 1 || r[0].Status != Skipped || !strings.Contains(r[0].Detail, gone+": no workload matches by container") {
		t.Errorf("%+v", r)
	}
	info := ""
	engine, err := net.Listen("unix", there)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/info" {
			io.WriteString(w, info)
		}
	})}
	go server.Serve(engine)
	defer server.Close()
	for _, c := range []struct {
		info string
		want Status
	}{
		{`{"CgroupDriver":"systemd","CgroupVersion":"2","ServerVersion":"28.1"}`, OK},
		{`{"CgroupDriver":"cgroupfs","CgroupVersion":"2"}`, Warned},
		{`{"CgroupDriver":"cgroupfs","CgroupVersion":"1"}`, Failed},
		{`no JSON`, Warned},
	} {
		info = c.info
		r := containers(t.Context(), []string{gone, there})
		if len(r) != 1 || r[0].Status != c.want || r[0].Status != OK && r[0].Remedy == "" {
			t.Errorf("%s: %+v, want %s", c.info, r, c.want)
		}
	}
}

// TestUnits: each state of a unit is told with what to do.
func TestUnits(t *testing.T) {
	for _, c := range []struct {
		name string
		unit systemd.Unit
		err  error
		want Status
		says string
	}{
		{"well", systemd.Unit{LoadState: "loaded", ActiveState: "active", UnitFileState: "enabled"}, nil, OK, "active, enabled"},
		{"absent", systemd.Unit{}, systemd.ErrNoUnit, Failed, "sallyport install"},
		{"not found", systemd.Unit{LoadState: "not-found"}, nil, Failed, "sallyport install"},
		{"masked", systemd.Unit{LoadState: "masked", ActiveState: "inactive"}, nil, Failed, "systemctl unmask sallyport.service"},
		{"stopped", systemd.Unit{LoadState: "loaded", ActiveState: "inactive", UnitFileState: "enabled"}, nil, Failed, "systemctl start sallyport.service"},
		{"failed", systemd.Unit{LoadState: "loaded", ActiveState: "failed", UnitFileState: "enabled"}, nil, Failed, "journalctl -u sallyport.service"},
		{"disabled", systemd.Unit{LoadState: "loaded", ActiveState: "active", UnitFileState: "disabled"}, nil, Failed, "systemctl enable sallyport.service"},
		{"edited", systemd.Unit{LoadState: "loaded", ActiveState: "active", UnitFileState: "enabled", NeedDaemonReload: true}, nil, Warned, "systemctl daemon-reload"},
		{"broken", systemd.Unit{LoadState: "bad-setting"}, nil, Failed, "systemctl status sallyport.service"},
	} {
		r := judgeUnit("sallyport.service", &c.unit, c.err)
		if r.Status != c.want || !strings.Contains(r.Detail+r.Remedy, c.says) {
			t.Errorf("%s: %+v, want %s saying %q", c.name, r, c.want, c.says)
		}
	}
	absent := &Doctor{Config: config.Default(config.Observe), Units: func(context.Context, string) (*systemd.Unit, error) { return nil, systemd.ErrNoUnit }}
	if r := absent.units(t.Context()); len(r) != 1 || r[0].Status != Skipped {
		t.Errorf("nothing installed: %+v", r)
	}
	one := &Doctor{Config: config.Default(config.Observe), Units: func(_ context.Context, name string) (*systemd.Unit, error) {
		if name == keeperUnit {
			return nil, systemd.ErrNoUnit
		}
		return &systemd.Unit{LoadState: "loaded", ActiveState: "active", UnitFileState: "enabled"}, nil
	}}
	if r := one.units(t.Context()); len(r) != 5 || r[4].Check != "order" || r[1].Check != keeperUnit || r[1].Status != Failed || r[0].Status != OK {
		t.Errorf("the keeper alone is missing: %+v", r)
	}
}

// TestOrder: the lock is required by the slice and comes before it and the engines.
func TestOrder(t *testing.T) {
	well := []string{"mcp.slice", "docker.service", "containerd.service", "podman.service", "shutdown.target"}
	for _, c := range []struct {
		name               string
		requiredBy, before []string
		want               Status
		says, remedy       string
	}{
		{"well", []string{"mcp.slice"}, well, OK, "comes before mcp.slice", ""},
		{"not required", []string{"other.slice"}, well, Failed, "mcp.slice starts without sallyport-lock.service", "systemctl edit mcp.slice"},
		{"not ordered", []string{"mcp.slice"}, well[1:], Failed, "beside sallyport-lock.service", "After=sallyport-lock.service"},
		{"an engine is early", []string{"mcp.slice"}, append([]string{"mcp.slice"}, well[2:]...), Failed, "docker.service may start", "Before=docker.service"},
	} {
		r := judgeOrder(&systemd.Unit{RequiredBy: c.requiredBy, Before: c.before}, "mcp.slice")
		if r.Status != c.want || !strings.Contains(r.Detail, c.says) || !strings.Contains(r.Remedy, c.remedy) {
			t.Errorf("%s: %+v, want %s saying %q", c.name, r, c.want, c.says)
		}
	}
	// systemd knows what requires a unit once that has been loaded.
	var loaded []string
	d := &Doctor{Config: config.Default(config.Observe), Units: func(_ context.Context, name string) (*systemd.Unit, error) {
		u := &systemd.Unit{LoadState: "loaded", ActiveState: "active", UnitFileState: "enabled", Before: well, RequiredBy: loaded}
		loaded = append(loaded, name)
		return u, nil
	}}
	if r := d.units(t.Context()); len(r) != 5 || r[4].Status != OK {
		t.Errorf("%+v", r)
	}
}

// TestDaemon: what the running service says of itself becomes lines with remedies.
func TestDaemon(t *testing.T) {
	status := &admin.Status{
		Ready: true, EnforcementActive: true,
		Problems:  []string{"disk: audit /var/log has 0 KiB left; make room"},
		Workloads: []admin.Workload{{Name: "a", Note: "captured late; trust incomplete: no mount"}, {Name: "b"}},
	}
	d := &Doctor{Config: config.Default(config.Observe), Daemon: func(context.Context) (*admin.Status, error) { return status, nil }}
	r := d.daemon(t.Context())
	want := []Result{
		{Status: OK, Detail: "ready, 2 workloads, 0 open flows"},
		{Status: Failed, Detail: "disk: audit /var/log has 0 KiB left", Remedy: "make room"},
		{Status: Warned, Detail: "workload a: captured late", Remedy: noteRemedy("captured late")},
		{Status: Warned, Detail: "workload a: trust incomplete: no mount", Remedy: noteRemedy("trust incomplete")},
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
	status.EnforcementActive = false
	if r := d.daemon(t.Context()); r[0].Status != Failed {
		t.Errorf("not active: %+v", r[0])
	}
	d.Daemon = func(context.Context) (*admin.Status, error) { return nil, admin.ErrNotRunning }
	if r := d.daemon(t.Context()); len(r) != 1 || r[0].Status != Skipped {
		t.Errorf("not running: %+v", r)
	}
}

// TestListeners: a port that somebody else holds is named.
func TestListeners(t *testing.T) {
	// Not one that the kernel gives away, so that it stays free afterwards.
	number := port.Free(t)
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", number))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := config.Default(config.Observe)
	c.Listen = config.Listen{TCP: number}
	c.Metrics.Listen = netip.AddrPort{}
	d := &Doctor{Config: c}
	r := d.listeners(t.Context())
	if len(r) != 1 || r[0].Status != Failed || !strings.Contains(r[0].Detail, l.Addr().String()) || !strings.Contains(r[0].Remedy, "listen.tcp") {
		t.Errorf("%+v", r)
	}
	l.Close()
	if r := d.listeners(t.Context()); len(r) != 1 || r[0].Status != OK {
		t.Errorf("free: %+v", r)
	}
}

func TestJudgeRoot(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	for days, want := range map[int]Status{3000: OK, 91: OK, 89: Warned, 0: Failed, -1: Failed} {
		c := &x509.Certificate{NotBefore: now.Add(-3000 * day), NotAfter: now.Add(time.Duration(days) * day)}
		if r := judgeRoot(c, now); r.Status != want || want != OK && r.Remedy == "" {
			t.Errorf("%d days left: %+v, want %s", days, r, want)
		}
	}
	if r := judgeRoot(&x509.Certificate{NotBefore: now.Add(day), NotAfter: now.Add(3000 * day)}, now); r.Status != Failed || !strings.Contains(r.Remedy, "clock") {
		t.Errorf("of tomorrow: %+v", r)
	}
}

func TestMissingCapabilities(t *testing.T) {
	missing, err := missingCapabilities("Name:\tx\nCapBnd:\t000001ffffffffff\nCapAmb:\t0\n")
	if err != nil || len(missing) != 0 {
		t.Errorf("all: %v, %v", missing, err)
	}
	// What Docker leaves to a container.
	missing, err = missingCapabilities("CapBnd:\t00000000a80425fb\n")
	if err != nil || !slices.Contains(missing, "CAP_SYS_ADMIN") || !slices.Contains(missing, "CAP_NET_ADMIN") || slices.Contains(missing, "CAP_KILL") {
		t.Errorf("a container: %v, %v", missing, err)
	}
	if _, err := missingCapabilities("Name:\tx\n"); err == nil {
		t.Error("nothing said")
	}
}
