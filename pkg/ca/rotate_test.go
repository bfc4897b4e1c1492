package ca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// accepts reports why somebody who trusts roots only does not accept a leaf that
// r's issuing certificate made.
func accepts(t *testing.T, r *Root, roots ...*x509.Certificate) error {
	t.Helper()
	m, err := r.Issue(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaves, err := NewLeaves(m, 4)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := leaves.Certificate("api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		pool.AddCert(c)
	}
	for _, der := range cert.Certificate[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(c)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	_, err = leaf.Verify(x509.VerifyOptions{DNSName: "api.example.com", Roots: pool, Intermediates: between})
	return err
}

func TestRotate(t *testing.T) {
	dir := t.TempDir()
	first, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	roots := []*Root{first}
	for range maxOverlap {
		next, err := Rotate(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, next)
	}
	if _, err := Rotate(dir, false); !errors.Is(err, ErrOverlap) {
		t.Errorf("one more: %v", err)
	}
	last, err := OpenRoot(dir)
	if err != nil || last.Fingerprint() != roots[maxOverlap].Fingerprint() {
		t.Fatalf("read again: %v", err)
	}
	for i, r := range roots {
		if err := accepts(t, last, r.Certificate()); err != nil {
			t.Errorf("who knows root %d only: %v", i, err)
		}
		if !bytes.Contains(last.PEM(), encodeCertificate(r.Certificate().Raw)) {
			t.Errorf("root %d is not trusted any more", i)
		}
	}
	// What the old root signed is good as long as directories hold it.
	certs, err := parseAll(last.PEM())
	if err != nil {
		t.Fatal(err)
	}
	if err := accepts(t, first, certs...); err != nil {
		t.Errorf("a leaf from before: %v", err)
	}

	forgotten, err := Rotate(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := accepts(t, forgotten, forgotten.Certificate()); err != nil {
		t.Error(err)
	}
	if err := accepts(t, forgotten, last.Certificate()); err == nil {
		t.Error("a root that was to be forgotten vouches for the new one")
	}
	if !bytes.Equal(forgotten.PEM(), encodeCertificate(forgotten.Certificate().Raw)) {
		t.Error("more than the new root is trusted")
	}
	if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) != 3 {
		t.Errorf("left in the directory: %v", names)
	}
}

// TestOverlapEnds: after its time the earlier root counts nothing.
func TestOverlapEnds(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenRoot(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Rotate(dir, false); err != nil {
		t.Fatal(err)
	}
	r, err := readRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	bare := func(now time.Time) *Root {
		c := &Root{cert: r.cert, key: r.key}
		if err := c.readOverlap(dir, now); err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := bare(time.Now().Add(Overlap - time.Hour)); len(c.previous) != 1 || len(c.cross) != 1 {
		t.Errorf("before: %d roots, %d vouch", len(c.previous), len(c.cross))
	}
	if c := bare(time.Now().Add(Overlap + time.Hour)); len(c.previous) != 0 || len(c.cross) != 0 {
		t.Errorf("after: %d roots, %d vouch", len(c.previous), len(c.cross))
	}
}

// TestOverlapOfAStranger: what does not vouch for the root is not trusted.
func TestOverlapOfAStranger(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, other} {
		if _, err := OpenRoot(d); err != nil {
			t.Fatal(err)
		}
		if _, err := Rotate(d, false); err != nil {
			t.Fatal(err)
		}
	}
	r, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenRoot(other)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(overlapPath(other, s.cert))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"another's": foreign, "one root": s.PEM()[:len(s.PEM())/2], "nothing": nil, "no certificate": []byte("x")} {
		if err := os.WriteFile(overlapPath(dir, r.cert), data, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenRoot(dir); !errors.Is(err, ErrRoot) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInterruptedRotation: from each moment of a crash there is one root, whole.
func TestInterruptedRotation(t *testing.T) {
	for _, c := range []struct {
		name string
		// prepared makes a directory look as after a crash, from that of before and
		// after a rotation.
		files map[string]string // name: "old/NAME" or "new/NAME"
		next  bool
	}{
		{"before the key", map[string]string{nextCertificate: "new/" + RootFile, KeyFile: "old/" + KeyFile, RootFile: "old/" + RootFile}, false},
		{"before the first rename", map[string]string{nextCertificate: "new/" + RootFile, nextKey: "new/" + KeyFile, KeyFile: "old/" + KeyFile, RootFile: "old/" + RootFile}, true},
		{"between the renames", map[string]string{nextCertificate: "new/" + RootFile, KeyFile: "new/" + KeyFile, RootFile: "old/" + RootFile}, true},
		{"a key alone", map[string]string{nextKey: "new/" + KeyFile, KeyFile: "old/" + KeyFile, RootFile: "old/" + RootFile}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := t.TempDir()
			old, fresh := filepath.Join(base, "old"), filepath.Join(base, "new")
			before, err := OpenRoot(old)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(fresh, os.DirFS(old)); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(fresh, KeyFile), 0o600); err != nil {
				t.Fatal(err)
			}
			after, err := Rotate(fresh, false)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(base, "crashed")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			c.files[filepath.Base(overlapPath(fresh, after.cert))] = "new/" + filepath.Base(overlapPath(fresh, after.cert))
			for name, from := range c.files {
				data, err := os.ReadFile(filepath.Join(base, from))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want := before
			if c.next {
				want = after
			}
			got, err := OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got.Fingerprint() != want.Fingerprint() || !bytes.Equal(got.PEM(), want.PEM()) {
				t.Errorf("root %s, want %s", got.Fingerprint(), want.Fingerprint())
			}
			for _, name := range []string{nextCertificate, nextKey} {
				if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is left: %v", name, err)
				}
			}
		})
	}
}
