package ca

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestForWorkload(t *testing.T) {
	host, roots := debian(t)
	trust, root := newTrust(t, host)
	ours := string(root.PEM())
	mine := someRoots(t, 2)
	secret := "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
	write(t, filepath.Join(host, "home/u/corp.pem"), mine[0]+secret)
	write(t, filepath.Join(host, "etc/ssl/certs/mine.pem"), mine[1])
	write(t, filepath.Join(host, "home/u/text"), "no certificate")
	open := func(p string) (*os.File, error) { return openPlain(filepath.Join(host, p)) }

	d, problems, err := trust.ForWorkload([]Kept{
		{Variable: "SSL_CERT_FILE", Path: "corp.pem"},
		{Variable: "CURL_CA_BUNDLE", Path: "/home/u/corp.pem"},
		{Variable: "GIT_SSL_CAINFO", Path: "/etc/ssl/certs/mine.pem"},
		{Variable: "PIP_CERT", Path: "/etc/ssl/certs/ca-certificates.crt"},
		{Variable: "NODE_EXTRA_CA_CERTS", Path: "/home/u/text", Adds: true},
		{Variable: "AWS_CA_BUNDLE", Path: "/missing"},
	}, "/home/u", open)
	if err != nil {
		t.Fatal(err)
	}
	if len(problems) != 2 {
		t.Errorf("problems %v", problems)
	}
	bundle := read(t, filepath.Join(d.Path(), BundleFile))
	for i, want := range append(slices.Clone(mine), append(roots, ours)...) {
		if !strings.Contains(bundle, want) {
			t.Errorf("certificate %d is not in the bundle", i)
		}
	}
	if strings.Contains(bundle, "PRIVATE") {
		t.Error("a key came into the bundle")
	}
	mounts := d.Mounts()
	if len(mounts) != 2 || mounts[1].Target != "/home/u/corp.pem" || !mounts[1].File {
		t.Fatalf("mounts %v", mounts)
	}
	if got := read(t, mounts[1].Source); got != mine[0]+ours {
		t.Error("the user's file does not have our root beside its own certificate")
	}
	certs := mounts[0].Source
	if got := read(t, filepath.Join(certs, "mine.pem")); got != mine[1]+ours {
		t.Error("the user's file in a covered directory lacks our root")
	}
	if read(t, filepath.Join(trust.Shared().Path(), "places/etc/ssl/certs/ca-certificates.crt")) != strings.Join(roots, "")+ours {
		t.Error("a workload's certificates came into the shared bundle")
	}
	if n, _ := trust.Figures(); n != 1 {
		t.Errorf("%d directories", n)
	}
	if err := trust.Build(); err != nil { // an update keeps the workload's own
		t.Fatal(err)
	}
	if !strings.Contains(read(t, filepath.Join(d.Path(), BundleFile)), mine[0]) {
		t.Error("lost by an update")
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	if err := trust.Shared().Remove(); err != nil || len(read(t, filepath.Join(trust.Shared().Path(), BundleFile))) == 0 {
		t.Error("the shared directory was removed")
	}
	if err := trust.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestForWorkloadNeverWaits(t *testing.T) {
	host, _ := debian(t)
	trust, _ := newTrust(t, host)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o644); err != nil {
		t.Fatal(err)
	}
	d, problems, err := trust.ForWorkload([]Kept{{Variable: "SSL_CERT_FILE", Path: pipe}, {Variable: "PIP_CERT", Path: "/dev/zero"}}, "/", nil)
	if err != nil || len(problems) != 2 || d != trust.Shared() {
		t.Errorf("%v %v %v", d, problems, err)
	}
}
