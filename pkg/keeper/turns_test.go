package keeper

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"

	"sallyport/pkg/workload"
)

// TestTurns: who makes cgroups without end takes no place from a sibling, at any
// level, and is named.
func TestTurns(t *testing.T) {
	tree, err := workload.FindTree()
	if err != nil {
		t.Skipf("needs cgroup2: %v", err)
	}
	t.Cleanup(func() { tree.Close() })
	root := "/sallyport-turns-" + strconv.Itoa(os.Getpid())
	made := []workload.Cgroup{}
	t.Cleanup(func() {
		for _, cg := range slices.Backward(made) {
			if err := cg.Remove(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	make := func(path string) workload.Cgroup {
		t.Helper()
		cg, err := tree.Create(root + path)
		if err != nil {
			t.Skipf("needs to make cgroups: %v", err)
		}
		made = append(made, cg)
		return cg
	}
	top := make("")
	make("/hostile")
	for i := range 40 {
		make(fmt.Sprintf("/hostile/%d", i))
		make(fmt.Sprintf("/hostile/%d/below", i))
	}
	make("/quiet")
	make("/quiet/inner")
	make("/quiet/inner/most")
	outside := make("-outside")

	walk := func(most int, descend func(path string) bool) (seen []string, cut []string) {
		t.Helper()
		turns, err := byTurnsBelow([]workload.Cgroup{top, outside}, most, func(at *turn) bool {
			seen = append(seen, at.cgroup.Path()[len(root):])
			return descend(at.cgroup.Path()[len(root):])
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range pathsOf(turns) {
			cut = append(cut, path[len(root):])
		}
		return seen, cut
	}
	always := func(string) bool { return true }
	seen, cut := walk(20, always)
	for _, want := range []string{"", "-outside", "/hostile", "/quiet", "/quiet/inner", "/quiet/inner/most"} {
		if !slices.Contains(seen, want) {
			t.Errorf("%s was not looked at: %v", want, seen)
		}
	}
	if len(seen) != 20 || !slices.Equal(cut, []string{"/hostile"}) {
		t.Errorf("%d cgroups, cut short at %v", len(seen), cut)
	}
	if seen, cut := walk(2, always); len(seen) != 2 || !slices.Equal(cut, []string{""}) {
		t.Errorf("two: %v, %v", seen, cut)
	}
	seen, cut = walk(len(made), always)
	slices.Sort(seen)
	if len(slices.Compact(seen)) != len(made) || cut != nil {
		t.Errorf("%d of %d, cut short at %v", len(slices.Compact(seen)), len(made), cut)
	}
	if seen, cut := walk(20, func(path string) bool { return path != "/hostile" }); len(seen) != 6 || cut != nil {
		t.Errorf("without what is below one: %v, %v", seen, cut)
	}
}
