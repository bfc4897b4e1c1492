package ca

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestLasting: the lasting path shows the shared directory, and that of a unit has
// its own certificates beside the host's, and our root beside its own.
func TestLasting(t *testing.T) {
	dir := t.TempDir()
	root, err := OpenRoot(filepath.Join(dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := NewTrust(TrustOptions{Shared: filepath.Join(dir, "trust"), Workloads: filepath.Join(dir, "own"), Root: root.PEM()})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := trust.Build(); err != nil {
			t.Fatal(err)
		}
	}
	lasting := trust.Lasting()
	if lasting.Path() != filepath.Join(dir, "trust", "current") {
		t.Errorf("%s", lasting.Path())
	}
	have, err := os.ReadFile(lasting.Paths(nil).Root)
	if err != nil || !bytes.Contains(root.PEM(), bytes.TrimSpace(have)) {
		t.Errorf("the root through the link: %v", err)
	}
	if len(lasting.Mounts()) != len(trust.Shared().Mounts()) {
		t.Errorf("%v, want as many as %v", lasting.Mounts(), trust.Shared().Mounts())
	}

	other, err := OpenRoot(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(dir, "own.pem")
	if err := os.WriteFile(own, other.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	kept := []Kept{{Variable: "SSL_CERT_FILE", Path: own}}
	for range 2 {
		unit, problems, err := trust.ForUnit("a.service", kept)
		if err != nil {
			t.Fatal(err, problems)
		}
		bundle, err := os.ReadFile(unit.Paths(nil).Bundle)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range [][]byte{root.PEM(), other.PEM()} {
			if !bytes.Contains(bundle, bytes.TrimSpace(want)) {
				t.Error("the bundle of a unit lacks a certificate")
			}
		}
		found := false
		for _, m := range unit.Mounts() {
			if m.Target == own && m.File {
				data, err := os.ReadFile(m.Source)
				found = err == nil && bytes.Contains(data, bytes.TrimSpace(root.PEM()))
			}
		}
		if !found {
			t.Errorf("nothing over the unit's own file: %v", unit.Mounts())
		}
	}
	if unit, problems, err := trust.ForUnit("b.service", []Kept{{Variable: "PIP_CERT", Path: filepath.Join(dir, "none")}}); err != nil || unit.Path() != lasting.Path() || len(problems) != 1 {
		t.Errorf("%v, %v, %v", unit, problems, err)
	}
}
