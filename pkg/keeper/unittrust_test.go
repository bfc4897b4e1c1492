package keeper

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/ca"
	"sallyport/pkg/tag"
	"sallyport/pkg/workload"
)

// TestDropUnitTrust: the trust of a unit goes when it is neither tagged nor runs.
func TestDropUnitTrust(t *testing.T) {
	tree, err := workload.FindTree()
	if err != nil {
		t.Skipf("needs cgroup2: %v", err)
	}
	t.Cleanup(func() { tree.Close() })
	slice := "/sallyport-trust-" + strconv.Itoa(os.Getpid()) + ".slice"
	var made []workload.Cgroup
	for _, path := range []string{slice, slice + "/runs.service", slice + "/instance@1.service"} {
		cg, err := tree.Create(path)
		if err != nil {
			t.Skipf("needs to make cgroups: %v", err)
		}
		made = append(made, cg)
	}
	t.Cleanup(func() {
		for _, cg := range slices.Backward(made) {
			if err := cg.Remove(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	dir := t.TempDir()
	root, err := ca.OpenRoot(filepath.Join(dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := ca.NewTrust(ca.TrustOptions{Shared: filepath.Join(dir, "trust"), Workloads: filepath.Join(dir, "own"), Root: root.PEM()})
	if err != nil {
		t.Fatal(err)
	}
	if err := trust.Build(); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(dir, "own.pem")
	if err := os.WriteFile(own, root.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"runs.service", "instance@.service", "tagged.service", "over.service"} {
		if _, problems, err := trust.ForUnit(name, []ca.Kept{{Variable: "SSL_CERT_FILE", Path: own}}); err != nil || len(problems) > 0 {
			t.Fatal(err, problems)
		}
	}
	k := &Keeper{log: zap.NewNop(), trust: trust, gate: &gate{tree: tree, tagged: made[0]}}
	k.claims.whole, k.claims.tags = true, []tag.Record{{Kind: tag.KindUnit, Name: "tagged.service"}}
	left := func() (names []string) {
		t.Helper()
		units, err := trust.Units()
		if err != nil {
			t.Fatal(err)
		}
		for name := range units {
			names = append(names, name)
		}
		slices.Sort(names)
		return names
	}
	k.dropUnitTrust(time.Now().Add(-time.Minute))
	if got := left(); len(got) != 4 {
		t.Errorf("what was written just now is gone: %q left", got)
	}
	k.dropUnitTrust(time.Now().Add(time.Second))
	if got := left(); !slices.Equal(got, []string{"instance@.service", "runs.service", "tagged.service"}) {
		t.Errorf("left: %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "trust", "current")); err != nil {
		t.Errorf("the shared directory: %v", err)
	}
}
