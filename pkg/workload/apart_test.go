package workload

import "testing"

// TestNamesOfEntriesAreTheirs: rules are found by a workload's name, so nothing
// that an entry did not match may go by a name that the entry gives.
func TestNamesOfEntriesAreTheirs(t *testing.T) {
	r, err := NewRegistry([]Entry{
		{Key: "gh", Name: "github", Match: Match{Units: []string{"mcp-github.service"}}},
		{Key: "units", Name: "unit-{unit}", Match: Match{Units: []string{"mcp-*.service"}}},
		{Key: "named"},
	}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		tag  Tag
		want string
	}{
		{Tag{Argv: []string{"/tmp/github"}}, "unlisted:github"},
		{Tag{Argv: []string{"gh"}}, "unlisted:gh"},
		{Tag{Argv: []string{"unit-mcp-x.service"}}, "unlisted:unit-mcp-x.service"},
		{Tag{Argv: []string{"unit-other.service"}}, "unit-other.service"},
		{Tag{Argv: []string{"curl"}}, "curl"},
		{Tag{Argv: []string{"curl"}, Workload: "github"}, "unlisted:github"},
		{Tag{Argv: []string{"curl"}, Workload: "new"}, "new"},
		{Tag{Argv: []string{"curl"}, Workload: "named"}, "named"},
	} {
		c.tag.ID, c.tag.Path = uint64(i+1), "/x"
		got, err := r.Add(c.tag)
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != c.want {
			t.Errorf("%v, --workload %q: name %q, want %q", c.tag.Argv, c.tag.Workload, got.Name, c.want)
		}
	}
}
