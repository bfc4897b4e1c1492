package ca

import (
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"software.sslmate.com/src/go-pkcs12"
)

// someRoots gives n certificates of authorities as PEM.
func someRoots(t testing.TB, n int) []string {
	t.Helper()
	var out []string
	for range n {
		out = append(out, string(openRoot(t).PEM()))
	}
	return out
}

func symlink(t testing.TB, target, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// debian lays out a host as ca-certificates and ca-certificates-java do.
func debian(t testing.TB) (host string, roots []string) {
	t.Helper()
	host = t.TempDir()
	chmodDir(t, host)
	roots = someRoots(t, 3)
	certs := filepath.Join(host, "etc/ssl/certs")
	write(t, filepath.Join(certs, "ca-certificates.crt"), strings.Join(roots, ""))
	for i, name := range []string{"One", "Two", "Three"} {
		write(t, filepath.Join(host, "usr/share/ca-certificates/mozilla", name+".crt"), roots[i])
		symlink(t, "/usr/share/ca-certificates/mozilla/"+name+".crt", filepath.Join(certs, name+".pem"))
		symlink(t, name+".pem", filepath.Join(certs, "0000000"+string(rune('1'+i))+".0"))
	}
	store, err := javaStore([]javaEntry{{alias: "corporate", der: mustDER(t, roots[0])}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(certs, "java/cacerts"), string(store))
	return host, roots
}

// chmodDir opens what testing made 0700: the copy leaves out what is not public.
func chmodDir(t testing.TB, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func mustDER(t testing.TB, text string) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}

func trustOptions(t testing.TB, root *Root, host string) TrustOptions {
	dir := t.TempDir()
	return TrustOptions{Shared: filepath.Join(dir, "shared"), Workloads: filepath.Join(dir, "workloads"), Root: root.PEM(), Host: host}
}

func newTrust(t testing.TB, host string) (*Trust, *Root) {
	t.Helper()
	root := openRoot(t)
	trust, err := NewTrust(trustOptions(t, root, host))
	if err != nil {
		t.Fatal(err)
	}
	if err := trust.Build(); err != nil {
		t.Fatal(err)
	}
	return trust, root
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTrustOnDebian(t *testing.T) {
	host, roots := debian(t)
	write(t, filepath.Join(host, "etc/ssl/private/host.key"), "-----BEGIN PRIVATE KEY-----")
	if err := os.Chmod(filepath.Join(host, "etc/ssl/private"), 0o711&^0o001); err != nil {
		t.Fatal(err)
	}
	symlink(t, "/etc/ssl/private/host.key", filepath.Join(host, "etc/ssl/certs/host.key"))
	write(t, filepath.Join(host, "etc/ssl/certs/secret.pem"), "secret")
	chmod(t, filepath.Join(host, "etc/ssl/certs/secret.pem"), 0o600)
	symlink(t, "nowhere.pem", filepath.Join(host, "etc/ssl/certs/dangling.pem"))
	symlink(t, "secret.pem", filepath.Join(host, "etc/ssl/certs/aaaaaaaa.0"))
	symlink(t, "loop2", filepath.Join(host, "etc/ssl/certs/loop1"))
	symlink(t, "loop1", filepath.Join(host, "etc/ssl/certs/loop2"))
	if err := syscall.Mkfifo(filepath.Join(host, "etc/ssl/certs/pipe"), 0o644); err != nil {
		t.Fatal(err)
	}

	trust, root := newTrust(t, host)
	if p := trust.Problems(); len(p) > 0 {
		t.Errorf("problems: %v", p)
	}
	d := trust.Shared()
	mounts := d.Mounts()
	want := []Mount{{Source: filepath.Join(d.Path(), "places/etc/ssl/certs"), Target: "/etc/ssl/certs"}}
	if diff := cmp.Diff(want, mounts); diff != "" {
		t.Fatal(diff)
	}
	certs := mounts[0].Source
	for _, name := range []string{"host.key", "secret.pem", "dangling.pem", "aaaaaaaa.0", "loop1", "loop2", "pipe"} {
		if _, err := os.Lstat(filepath.Join(certs, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was copied (%v)", name, err)
		}
	}
	if got := read(t, filepath.Join(certs, "ca-certificates.crt")); got != strings.Join(roots, "")+string(root.PEM()) {
		t.Error("the bundle is not the host's followed by ours")
	}
	if st, err := os.Lstat(filepath.Join(certs, "One.pem")); err != nil || !st.Mode().IsRegular() {
		t.Errorf("One.pem still leads out of the directory (%v)", err)
	}
	if target, err := os.Readlink(filepath.Join(certs, "00000001.0")); err != nil || target != "One.pem" {
		t.Errorf("hash link leads to %q, %v", target, err)
	}
	if got := read(t, filepath.Join(certs, trust.ours.roots[0].hash+".0")); got != string(root.PEM()) {
		t.Error("our hash link does not lead to our root")
	}
	if got := read(t, filepath.Join(d.Path(), RootFile)); got != string(root.PEM()) {
		t.Error("root.pem is not our root alone")
	}
	for _, store := range []string{filepath.Join(certs, "java/cacerts"), filepath.Join(d.Path(), JavaFile)} {
		got, err := pkcs12.DecodeTrustStore([]byte(read(t, store)), "")
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 4 {
			t.Errorf("%s has %d certificates", store, len(got))
		}
		if !slices.ContainsFunc(got, root.Certificate().Equal) {
			t.Errorf("%s lacks our root", store)
		}
	}
	publicTree(t, d.Path())
}

// publicTree fails where a workload could not read.
func publicTree(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		switch want := os.FileMode(0o644); {
		case entry.IsDir() && info.Mode().Perm() != 0o755:
			t.Errorf("%s has mode %04o", p, info.Mode().Perm())
		case info.Mode().IsRegular() && info.Mode().Perm() != want:
			t.Errorf("%s has mode %04o", p, info.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTrustIgnoresUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	host, _ := debian(t)
	if out, err := exec.Command("chmod", "-R", "a+rX", host).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	trust, _ := newTrust(t, host)
	if len(trust.Shared().Mounts()) != 1 {
		t.Fatal("nothing covered")
	}
	publicTree(t, trust.Shared().Path())
}

// What lies above the trust directories belongs to others.
func TestParentsAreNotOpened(t *testing.T) {
	host, _ := debian(t)
	root := openRoot(t)
	o := trustOptions(t, root, host)
	parent := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(parent, 0o750); err != nil {
		t.Fatal(err)
	}
	o.Shared, o.Workloads = filepath.Join(parent, "a/shared"), filepath.Join(parent, "b/workloads")
	trust, err := NewTrust(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := trust.Build(); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(parent)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o750 {
		t.Errorf("mode became %04o", st.Mode().Perm())
	}
}

func TestTrustOnFedora(t *testing.T) {
	host := t.TempDir()
	chmodDir(t, host)
	roots := someRoots(t, 2)
	all := strings.Join(roots, "")
	extracted := filepath.Join(host, "etc/pki/ca-trust/extracted")
	write(t, filepath.Join(extracted, "pem/tls-ca-bundle.pem"), all)
	write(t, filepath.Join(extracted, "pem/email-ca-bundle.pem"), all)
	write(t, filepath.Join(extracted, "openssl/ca-bundle.trust.crt"), all)
	write(t, filepath.Join(extracted, "java/cacerts"), "not a store that anybody knows")
	symlink(t, "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", filepath.Join(host, "etc/pki/tls/certs/ca-bundle.crt"))
	symlink(t, "../pki/tls/certs", filepath.Join(host, "etc/ssl/certs"))
	symlink(t, "/etc/pki/ca-trust/extracted/java/cacerts", filepath.Join(host, "etc/pki/java/cacerts"))

	trust, root := newTrust(t, host)
	d := trust.Shared()
	var targets []string
	sources := make(map[string]string)
	for _, m := range d.Mounts() {
		targets = append(targets, m.Target)
		sources[m.Target] = m.Source
	}
	if diff := cmp.Diff([]string{"/etc/pki/ca-trust/extracted", "/etc/pki/java", "/etc/pki/tls/certs"}, targets); diff != "" {
		t.Fatal(diff)
	}
	ours := string(root.PEM())
	for p, want := range map[string]string{
		sources["/etc/pki/ca-trust/extracted"] + "/pem/tls-ca-bundle.pem":       all + ours,
		sources["/etc/pki/ca-trust/extracted"] + "/pem/email-ca-bundle.pem":     all,
		sources["/etc/pki/ca-trust/extracted"] + "/openssl/ca-bundle.trust.crt": all + ours,
		sources["/etc/pki/tls/certs"] + "/ca-bundle.crt":                        all + ours,
		filepath.Join(d.Path(), BundleFile):                                     all + ours,
	} {
		if got := read(t, p); got != want {
			t.Errorf("%s: %d bytes, want %d", p, len(got), len(want))
		}
	}
	for _, store := range []string{sources["/etc/pki/ca-trust/extracted"] + "/java/cacerts", sources["/etc/pki/java"] + "/cacerts"} {
		got, err := pkcs12.DecodeTrustStore([]byte(read(t, store)), "")
		if err != nil || len(got) != 3 {
			t.Errorf("%s: %d certificates, %v", store, len(got), err)
		}
	}
}

func TestTrustCoversOnlyWhatItKnows(t *testing.T) {
	tests := map[string]func(host string){
		"link to /etc":          func(host string) { symlink(t, "/etc", filepath.Join(host, "etc/ssl/certs")) },
		"link to the root":      func(host string) { symlink(t, "/", filepath.Join(host, "etc/ssl/certs")) },
		"a file":                func(host string) { write(t, filepath.Join(host, "etc/ssl/certs"), "x") },
		"link out of the world": func(host string) { symlink(t, "../../../../..", filepath.Join(host, "etc/ssl/certs")) },
		"a loop":                func(host string) { symlink(t, "certs", filepath.Join(host, "etc/ssl/certs")) },
	}
	for name, lay := range tests {
		t.Run(name, func(t *testing.T) {
			host := t.TempDir()
			chmodDir(t, host)
			write(t, filepath.Join(host, "etc/ssl/cert.pem"), someRoots(t, 1)[0])
			lay(host)
			trust, root := newTrust(t, host)
			if m := trust.Shared().Mounts(); len(m) != 0 {
				t.Errorf("covers %v", m)
			}
			if !strings.HasSuffix(read(t, filepath.Join(trust.Shared().Path(), BundleFile)), string(root.PEM())) {
				t.Error("no bundle")
			}
		})
	}
}

func TestTrustBoundsWhatItCopies(t *testing.T) {
	host, _ := debian(t)
	deep := filepath.Join(host, "etc/ssl/certs", strings.Repeat("d/", maxTreeDepth+2))
	write(t, filepath.Join(deep, "x.pem"), "x")
	trust, _ := newTrust(t, host)
	if len(trust.Shared().Mounts()) != 0 {
		t.Error("covered")
	}
	if p := trust.Problems(); len(p) != 1 || !errors.Is(p[0], errTreeTooLarge) {
		t.Errorf("problems %v", p)
	}
}

// A further process takes what the first one made, and a third one with another
// root does not.
func TestSharedByProcesses(t *testing.T) {
	host, _ := debian(t)
	root := openRoot(t)
	o := trustOptions(t, root, host)
	first, err := NewTrust(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Build(); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(first.Shared().Path(), "places/etc/ssl/certs/ca-certificates.crt")
	before, err := os.Stat(bundle)
	if err != nil {
		t.Fatal(err)
	}
	o.Workloads = t.TempDir()
	second, err := NewTrust(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Build(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first.Shared().Mounts(), second.Shared().Mounts()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(first.Shared().Paths(nil), second.Shared().Paths(nil)); diff != "" {
		t.Error(diff)
	}
	if after, err := os.Stat(bundle); err != nil || !os.SameFile(before, after) {
		t.Error("written again")
	}
	// The host changed while nobody looked.
	added := someRoots(t, 1)[0]
	updateCertificates(t, host, added)
	if err := second.Build(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(read(t, bundle), added) {
		t.Error("the change was missed")
	}
	// A link's target changed in place, the link did not.
	write(t, filepath.Join(host, "usr/share/ca-certificates/mozilla/One.crt"), added)
	if err := second.Build(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(filepath.Dir(bundle), "One.pem")); got != added {
		t.Error("the change behind a link was missed")
	}
	o.Root = openRoot(t).PEM()
	third, err := NewTrust(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := third.Build(); err != nil {
		t.Fatal(err)
	}
	if third.Shared().Path() == first.Shared().Path() || !strings.HasSuffix(read(t, bundle), string(root.PEM())) {
		t.Error("another root took over the directory")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	read(t, bundle)
}

// What a mount shows is the directory's inode: it must stay through updates.
func TestRebuildKeepsDirectories(t *testing.T) {
	host, _ := debian(t)
	trust, root := newTrust(t, host)
	certs := trust.Shared().Mounts()[0].Source
	before, err := os.Open(certs) // as a bind mount would, this holds the directory
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()

	added := someRoots(t, 1)[0]
	updateCertificates(t, host, added)
	remove(t, filepath.Join(host, "etc/ssl/certs/00000001.0"))
	symlink(t, "Four.pem", filepath.Join(host, "etc/ssl/certs/00000004.0"))
	write(t, filepath.Join(host, "etc/ssl/certs/Four.pem"), added)
	if err := trust.Build(); err != nil {
		t.Fatal(err)
	}
	names, err := before.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	want := []string{"00000002.0", "00000003.0", "00000004.0", "Four.pem", "One.pem", "Three.pem", "Two.pem", "ca-certificates.crt", "java", "sallyport-root.pem", trust.ours.roots[0].hash + ".0"}
	slices.Sort(want)
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if got := read(t, filepath.Join(certs, "ca-certificates.crt")); !strings.HasSuffix(got, added+string(root.PEM())) {
		t.Error("the bundle is old")
	}
	publicTree(t, trust.Shared().Path())
}

// updateCertificates ends as update-ca-certificates does: with a rename.
func updateCertificates(t *testing.T, host, added string) {
	t.Helper()
	bundle := filepath.Join(host, "etc/ssl/certs/ca-certificates.crt")
	write(t, bundle+".new", read(t, bundle)+added)
	if err := os.Rename(bundle+".new", bundle); err != nil {
		t.Fatal(err)
	}
}

func TestBundleNeverShrinksToNothing(t *testing.T) {
	host, roots := debian(t)
	trust, root := newTrust(t, host)
	want := strings.Join(roots, "") + string(root.PEM())
	if err := os.RemoveAll(filepath.Join(host, "etc/ssl")); err != nil {
		t.Fatal(err)
	}
	if err := trust.Build(); err != nil {
		t.Fatal(err)
	}
	if len(trust.Problems()) == 0 {
		t.Error("no problem reported")
	}
	for _, p := range []string{filepath.Join(trust.Shared().Path(), BundleFile), filepath.Join(trust.Shared().Path(), "places/etc/ssl/certs/ca-certificates.crt")} {
		if got := read(t, p); got != want {
			t.Errorf("%s has %d bytes", p, len(got))
		}
	}
}

func TestHostWithoutRoots(t *testing.T) {
	host := t.TempDir()
	trust, root := newTrust(t, host)
	if got := read(t, filepath.Join(trust.Shared().Path(), BundleFile)); got != string(root.PEM()) {
		t.Error("the bundle is not ours alone")
	}
	if p := trust.Shared().Paths(nil); p.Java == "" {
		t.Error("nothing for a JVM")
	}
}
