package keeper

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/pkg/config"
	"sallyport/pkg/workload"
)

// TestEntries: every key of a workload's match reaches the registry.
func TestEntries(t *testing.T) {
	c, err := config.Parse([]config.File{{Name: "f", Data: []byte(`
workloads:
  a:
    name: "c-{container}"
    match:
      unit: u
      cgroup: [/a, /b]
      command: c
      user: root
      container: [ { name: n, image: i, label: [k=v, k=w, l=m] }, { name: o } ]
  b: {}
`)}})
	if err != nil {
		t.Fatal(err)
	}
	want := []workload.Entry{
		{Key: "a", Name: "c-{container}", Match: workload.Match{
			Units: []string{"u"}, Cgroups: []string{"/a", "/b"}, Commands: []string{"c"}, Users: []string{"root"},
			Containers: []workload.ContainerMatch{
				{Names: []string{"n"}, Images: []string{"i"}, Labels: map[string][]string{"k": {"v", "w"}, "l": {"m"}}},
				{Names: []string{"o"}, Images: []string{}, Labels: map[string][]string{}},
			},
		}},
		{Key: "b", Name: "b"},
	}
	if diff := cmp.Diff(want, entries(c)); diff != "" {
		t.Error(diff)
	}
}
