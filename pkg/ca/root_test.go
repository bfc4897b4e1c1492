package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

func openRoot(t testing.TB) *Root {
	t.Helper()
	root, err := OpenRoot(filepath.Join(t.TempDir(), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestOpenRootCreatesOnceForMany(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "ca")
	const n = 16
	prints := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			root, err := OpenRoot(dir)
			if err != nil {
				t.Error(err)
				return
			}
			prints[i] = root.Fingerprint()
		})
	}
	wg.Wait()
	for _, p := range prints {
		if p != prints[0] || p == "" {
			t.Fatalf("different roots: %q", prints)
		}
	}
	st, err := os.Stat(filepath.Join(dir, KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode().Perm() != 0o600 {
		t.Errorf("key has mode %04o", st.Mode().Perm())
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Errorf("left behind: %v", entries)
	}
}

// TestMain lets the test binary be one of several processes that open a root.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CA_TEST_OPEN_ROOT"); dir != "" {
		root, err := OpenRoot(dir)
		if err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Stdout.WriteString(root.Fingerprint())
		os.Exit(0)
	}
	syscall.Umask(0o022) // hosts are laid out as packages do, whoever runs the tests
	os.Exit(m.Run())
}

func TestOpenRootAcrossProcesses(t *testing.T) {
	dir := t.TempDir()
	const n = 6
	prints := make([][]byte, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "CA_TEST_OPEN_ROOT="+dir)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Error(err)
			}
			prints[i] = out
		})
	}
	wg.Wait()
	for _, p := range prints {
		if !bytes.Equal(p, prints[0]) || len(p) == 0 {
			t.Fatalf("different roots: %q", prints)
		}
	}
}

func TestRootCertificate(t *testing.T) {
	root := openRoot(t)
	c := root.Certificate()
	if years := c.NotAfter.Sub(c.NotBefore).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("valid for %.1f years", years)
	}
	if !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 || len(c.SubjectKeyId) == 0 {
		t.Error("not a proper authority")
	}
	if c.SerialNumber.Sign() <= 0 || c.SerialNumber.BitLen() < 100 || c.SerialNumber.BitLen() > 159 {
		t.Errorf("serial has %d bits", c.SerialNumber.BitLen())
	}
}

func TestOpenRootRefuses(t *testing.T) {
	tests := map[string]func(t *testing.T, dir string){
		"readable key":   func(t *testing.T, dir string) { chmod(t, filepath.Join(dir, KeyFile), 0o640) },
		"missing key":    func(t *testing.T, dir string) { remove(t, filepath.Join(dir, KeyFile)) },
		"foreign key":    func(t *testing.T, dir string) { copyFile(t, otherKey(t), filepath.Join(dir, KeyFile)) },
		"no certificate": func(t *testing.T, dir string) { write(t, filepath.Join(dir, RootFile), "nothing\n") },
		"leaf instead of root": func(t *testing.T, dir string) {
			root, err := OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			m, err := root.Issue(time.Now())
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, RootFile), string(m.Chain))
		},
		"key is a link": func(t *testing.T, dir string) {
			key := filepath.Join(dir, KeyFile)
			if err := os.Rename(key, key+".real"); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(key+".real", key); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := OpenRoot(dir); err != nil {
				t.Fatal(err)
			}
			damage(t, dir)
			before, _ := os.ReadFile(filepath.Join(dir, RootFile))
			if _, err := OpenRoot(dir); !errors.Is(err, ErrRoot) {
				t.Fatalf("error %v does not wrap ErrRoot", err)
			}
			after, _ := os.ReadFile(filepath.Join(dir, RootFile))
			if !bytes.Equal(before, after) {
				t.Error("the certificate was replaced")
			}
		})
	}
}

func TestOpenRootAfterCrashBetweenFiles(t *testing.T) {
	dir := t.TempDir()
	copyFile(t, otherKey(t), filepath.Join(dir, KeyFile))
	chmod(t, filepath.Join(dir, KeyFile), 0o600)
	if _, err := OpenRoot(dir); err != nil {
		t.Fatal(err)
	}
}

func TestReadRootCertificate(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadRootCertificate(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no root: %v", err)
	}
	root, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadRootCertificate(dir)
	if err != nil || !bytes.Equal(got, root.PEM()) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestIssueCannotMakeAuthorities(t *testing.T) {
	root := openRoot(t)
	m, err := root.Issue(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certs, err := parseAll(m.Chain)
	if err != nil || len(certs) != 2 {
		t.Fatalf("chain of %d, %v", len(certs), err)
	}
	c := certs[0]
	if !c.MaxPathLenZero || c.MaxPathLen != 0 || !c.IsCA {
		t.Error("path length is not 0")
	}
	if d := time.Until(c.NotAfter); d > 8*24*time.Hour {
		t.Errorf("valid for %s", d)
	}
	secret, err := root.key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(m.Key); block == nil || bytes.Contains(block.Bytes, secret) || bytes.Equal(c.SubjectKeyId, root.cert.SubjectKeyId) {
		t.Error("the root's key is in the material")
	}
}

func TestRenewalDue(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		last time.Time
		due  bool
	}{
		"fresh":          {now, false},
		"two days":       {now.Add(-48 * time.Hour), false},
		"three days":     {now.Add(-72 * time.Hour), true},
		"slept a month":  {now.Add(-720 * time.Hour), true},
		"clock set back": {now.Add(24 * time.Hour), true},
		"slewed":         {now.Add(time.Minute), false},
	}
	for name, tt := range tests {
		if got := renewalDue(tt.last, now); got != tt.due {
			t.Errorf("%s: due %v", name, got)
		}
	}
}

func TestRenewEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Renew(ctx, func() *Root { return nil }, func(Material) error { t.Error("delivered at once"); return nil }); err != nil {
		t.Error(err)
	}
}

func TestMaterialThatDoesNotFit(t *testing.T) {
	a, b := openRoot(t), openRoot(t)
	ma, _ := a.Issue(time.Now())
	mb, _ := b.Issue(time.Now())
	issuing := func(m Material) []byte { c, _ := parseAll(m.Chain); return encodeCertificate(c[0].Raw) }
	for name, m := range map[string]Material{
		"empty":        {},
		"other key":    {Chain: ma.Chain, Key: mb.Key},
		"no root":      {Chain: issuing(ma), Key: ma.Key},
		"foreign root": {Chain: joinPEM(issuing(ma), b.PEM()), Key: ma.Key},
		"no key":       {Chain: ma.Chain},
	} {
		if _, err := NewLeaves(m, 1); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func otherKey(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := OpenRoot(dir); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, KeyFile)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// TestRemoveRoot: a directory that holds more than the root keeps it.
func TestRemoveRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	if _, err := OpenRoot(dir); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "somebody", "else.conf")
	if err := errors.Join(os.Mkdir(filepath.Dir(other), 0o755), os.WriteFile(other, []byte("x"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := RemoveRoot(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("a file that is not ours was removed: %v", err)
	}
	for _, name := range []string{KeyFile, RootFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	if err := os.RemoveAll(filepath.Dir(other)); err != nil {
		t.Fatal(err)
	}
	if err := RemoveRoot(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the empty directory stays")
	}
}
