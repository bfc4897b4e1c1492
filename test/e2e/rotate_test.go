package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport/test/outside"
)

// TestRotate: a program that read its roots before the rotation goes on, one that
// knows only the old root or only the new one gets a certificate that it accepts,
// and after --forget the old root counts nothing.
func TestRotate(t *testing.T) {
	t.Parallel()
	h, _ := withDaemon(t)
	h.sh("chmod 755 /var/lib/sallyport /var/lib/sallyport/ca && cp /var/lib/sallyport/ca/root.pem /srv/before.pem && chmod 644 /srv/before.pem")
	old := h.startInmate(as(alice, h.execBy(inmatePath)...)...)
	if o := old.do("tls", "api.example.com"); o.Answer != "200 OK" {
		t.Fatalf("before: %+v", o)
	}
	rotate := func(more ...string) result {
		t.Helper()
		r := h.run(h.sallyport(append([]string{"ca", "rotate", "--config", daemonConfig}, more...)...))
		if r.code != 0 || !strings.Contains(r.stdout, "root    ") {
			t.Fatalf("ca rotate: %v", r)
		}
		return r
	}
	// A name for each: a leaf is served for a day.
	knowing := func(root, name string) result {
		return h.run(h.command(as(alice, h.execBy("curl", "-sS", "--capath", "/nonexistent", "--cacert", root, "https://"+name+"/x")...)...))
	}
	// It may be midnight in between, and the host has no TZ of ours.
	inAMonth := func() []string {
		end := time.Now().Add(30 * 24 * time.Hour)
		return []string{"overlap until " + end.Format(time.DateOnly), "overlap until " + end.UTC().Format(time.DateOnly)}
	}
	until := inAMonth()
	r := rotate()
	until = append(until, inAMonth()...)
	if !slices.ContainsFunc(until, func(s string) bool { return strings.Contains(r.stdout, s) }) {
		t.Errorf("%v, want one of %q", r, until)
	}
	h.sh("cp /var/lib/sallyport/ca/root.pem /srv/after.pem && chmod 644 /srv/after.pem && ! cmp -s /srv/before.pem /srv/after.pem")
	for _, root := range []string{"/srv/before.pem", "/srv/after.pem"} {
		if r := knowing(root, "api.example.com"); r.code != 0 || !strings.Contains(r.stdout, `"ok":true`) {
			t.Errorf("who knows only %s: %v", root, r)
		}
	}
	if o := old.do("tls", "other.example.com"); o.Answer != "200 OK" {
		t.Errorf("a program that has read the old root: %+v", o)
	}
	r = h.run(h.command(as(alice, h.execBy("sh", "-c", "grep -c BEGIN $NODE_EXTRA_CA_CERTS; ls /etc/ssl/certs | grep -c sallyport-root; curl -sS https://api.example.com/x")...)...))
	if lines := strings.Split(r.stdout, "\n"); r.code != 0 || len(lines) < 3 || !slices.Equal(lines[:2], []string{"2", "2"}) {
		t.Errorf("a program that starts now: %v", r)
	}
	if r := h.run(h.command(as(alice, h.binary, "ca", "rotate", "--config", daemonConfig)...)); r.code != 1 || !strings.Contains(r.stderr, "not root") {
		t.Errorf("by an ordinary user: %v", r)
	}

	rotate("--forget")
	if r := knowing("/srv/before.pem", "api.example.com"); r.code != 60 {
		t.Errorf("a forgotten root is accepted: %v", r)
	}
	if r := h.run(h.command(as(alice, h.execBy("curl", "-sS", "https://api.example.com/x")...)...)); r.code != 0 {
		t.Errorf("a program that starts now: %v", r)
	}
}

// TestHostStore: the whole host trusts the root after `ca trust`, and not any more
// after `ca untrust`.
func TestHostStore(t *testing.T) {
	t.Parallel()
	h, _ := withDaemon(t)
	bundle := func() string { return h.read("/etc/ssl/certs/ca-certificates.crt") }
	root := strings.Split(h.read("/var/lib/sallyport/ca/root.pem"), "\n")[3]
	if strings.Contains(bundle(), root) {
		t.Fatal("the host trusts the root before")
	}
	for range 2 {
		if r := h.run(h.sallyport("ca", "trust", "--config", daemonConfig)); r.code != 0 || !strings.Contains(bundle(), root) {
			t.Errorf("ca trust: %v", r)
		}
	}
	for range 2 {
		if r := h.run(h.sallyport("ca", "untrust", "--config", daemonConfig)); r.code != 0 || strings.Contains(bundle(), root) {
			t.Errorf("ca untrust: %v", r)
		}
	}
}

// TestUpdateCACertificates: the host renews its trust while a workload runs,
// which still trusts us and what the host trusts now.
func TestUpdateCACertificates(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putInmate()
	i := h.startInmate(h.exec("", inmatePath)...)
	if o := i.do("tls", "api.example.com"); o.Answer != "200 OK" {
		t.Fatalf("before: %+v", o)
	}
	other := outside.NewAuthority(t)
	h.write("/usr/local/share/ca-certificates/other.crt", string(other.PEM))
	if r := h.sh("ls -i /etc/ssl/certs/ca-certificates.crt; update-ca-certificates; ls -i /etc/ssl/certs/ca-certificates.crt; grep -c BEGIN /etc/ssl/certs/ca-certificates.crt"); r.code != 0 {
		t.Fatalf("update-ca-certificates: %v", r)
	}
	bundle := fmt.Sprintf("/proc/%d/root/etc/ssl/certs/ca-certificates.crt", i.pid)
	want := strings.Split(string(other.PEM), "\n")[3]
	eventually(t, 10*time.Second, "the workload sees what the host trusts now", func() bool {
		b, _ := os.ReadFile(bundle)
		return strings.Contains(string(b), want)
	})
	if o := i.do("tls", "other.example.com"); o.Answer != "200 OK" {
		t.Errorf("after: %+v", o)
	}
	// A new process below the workload, with its own copy of nothing.
	r := h.sh(fmt.Sprintf("nsenter -t %d -m cat /etc/ssl/certs/sallyport-root.pem /etc/ssl/certs/ca-certificates.crt | grep -c BEGIN", i.pid))
	if n, _ := strconv.Atoi(strings.TrimSpace(r.stdout)); n < 3 {
		t.Errorf("%v", r)
	}
}
