package ca

import (
	"bytes"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The directories of this host, as programs of this host see them.
func TestTrustOfThisHost(t *testing.T) {
	trust, root := newTrust(t, "/")
	d := trust.Shared()
	places := d.Mounts()
	if len(places) == 0 {
		t.Skip("this host has no directory of certificates that we know")
	}
	leafDir := t.TempDir()
	m, err := root.Issue(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := NewLeaves(m, 1)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := leaves.Certificate("api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	leaf, issuing := filepath.Join(leafDir, "leaf.pem"), filepath.Join(leafDir, "issuing.pem")
	write(t, leaf, string(encodeCertificate(cert.Certificate[0])))
	write(t, issuing, string(encodeCertificate(cert.Certificate[1])))
	verify := func(args ...string) {
		t.Helper()
		args = append([]string{"verify", "-x509_strict", "-no-CAfile", "-no-CApath", "-no-CAstore", "-untrusted", issuing}, append(args, leaf)...)
		cmd := exec.Command("openssl", args...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("openssl %v: %v\n%s", args, err, out)
		}
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	verify("-CAfile", filepath.Join(d.Path(), BundleFile))
	verify("-CApath", d.Path())
	for _, place := range places {
		verify("-CApath", place.Source)
	}
	// The host's own certificates are still found by their hash.
	host, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err == nil {
		first, err := x509.ParseCertificate(pemCertificates(host)[0])
		if err != nil {
			t.Fatal(err)
		}
		write(t, leaf, string(encodeCertificate(first.Raw)))
		// Roots end too.
		cmd := exec.Command("openssl", "verify", "-no_check_time", "-no-CAfile", "-no-CAstore", "-CApath", filepath.Join(d.Path(), "places/etc/ssl/certs"), leaf)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	if _, err := exec.LookPath("keytool"); err != nil {
		t.Skip("keytool is not installed")
	}
	for _, args := range [][]string{{"-storepass", "changeit"}, {"-storepass", ""}} {
		cmd := exec.Command("keytool", append([]string{"-J-Xint", "-list", "-keystore", filepath.Join(d.Path(), JavaFile)}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("sallyport-root")) {
			t.Errorf("keytool %v: %v\n%.300s", args, err, out)
		}
	}
}

// Programs without any variable, where the directory lies over the host's: what
// a workload sees.
func TestMountedOverTheHosts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a mount namespace")
	}
	trust, root := newTrust(t, "/")
	m, err := root.Issue(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := NewLeaves(m, 4)
	if err != nil {
		t.Fatal(err)
	}
	port := serve(t, leaves)
	url, ip := "https://localhost:"+port+"/", "https://127.0.0.1:"+port+"/"
	var mounts strings.Builder
	for _, m := range trust.Shared().Mounts() {
		mounts.WriteString("mount --bind '" + m.Source + "' '" + m.Target + "' && ")
	}
	if mounts.Len() == 0 {
		t.Skip("this host has no directory of certificates that we know")
	}
	if paths := trust.Shared().Paths(nil); paths.Java != "" {
		t.Log("this host's JVM, if any, needs the variable")
	}
	java := filepath.Join(t.TempDir(), "Get.java")
	write(t, java, javaGet)
	for name, cmd := range map[string][]string{
		"curl":          {"curl", "-sS", "--noproxy", "*", url},
		"gnutls (wget)": {"wget", "-q", "--no-proxy", "-O", "-", url},
		"python":        {"python3", "-c", "import sys,urllib.request as u; print(u.build_opener(u.ProxyHandler({})).open(sys.argv[1]).read().decode())", url},
		"openssl":       {"openssl", "s_client", "-verify_return_error", "-brief", "-servername", "localhost", "-connect", "127.0.0.1:" + port},
		"java":          {"java", "-Xint", java, ip},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(cmd[0]); err != nil {
				t.Skipf("%s is not installed", cmd[0])
			}
			run := func(prefix string) ([]byte, error) {
				c := exec.CommandContext(t.Context(), "sh", append([]string{"-c", prefix + `exec "$@"`, "sh"}, cmd...)...)
				c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
				c.Env = withoutProxy(os.Environ())
				c.Stdin = strings.NewReader("GET / HTTP/1.0\r\n\r\n")
				return c.CombinedOutput()
			}
			if out, err := run(""); err == nil {
				t.Fatalf("trusted without us:\n%s", out)
			}
			if out, err := run(mounts.String()); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func BenchmarkBuildFirst(b *testing.B) {
	root := openRoot(b)
	b.ReportAllocs()
	for b.Loop() {
		trust, err := NewTrust(trustOptions(b, root, "/"))
		if err != nil {
			b.Fatal(err)
		}
		if err := trust.Build(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		trust.Close()
		b.StartTimer()
	}
}

// The second exec on a host.
func BenchmarkBuildOfNextProcess(b *testing.B) {
	root := openRoot(b)
	o := trustOptions(b, root, "/")
	b.ReportAllocs()
	for b.Loop() {
		trust, err := NewTrust(o)
		if err != nil {
			b.Fatal(err)
		}
		if err := trust.Build(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuildUnchanged(b *testing.B) {
	trust, _ := newTrust(b, "/")
	b.ReportAllocs()
	for b.Loop() {
		if err := trust.Build(); err != nil {
			b.Fatal(err)
		}
	}
}
