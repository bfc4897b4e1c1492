package workload

import "testing"

// TestNamed: what a command said goes before the entries, and a name that was
// taken back leaves what there was.
func TestNamed(t *testing.T) {
	entries := []Entry{
		{Key: "first", Match: Match{Units: []string{"mcp-*"}}},
		{Key: "second"},
	}
	paths := fakePaths{1: "/mcp.slice/mcp-a.service/sub", 2: "/mcp.slice/mcp-b.service", 3: "/mcp.slice/plain/x", 4: "/docker/" + idA}
	r := registry(t, entries, paths, nil)
	names := func(want ...string) {
		t.Helper()
		for i, w := range want {
			got, err := r.Identify(uint64(i + 1))
			if err != nil || got.Name != w {
				t.Errorf("%s: %q, %v; want %q", paths[uint64(i+1)], got.Name, err, w)
			}
		}
	}
	names("first", "first", "mcp.slice", idA[:12])
	err := r.SetNamed([]Named{
		{Match: Match{Units: []string{Quote("mcp-a.service")}}, Workload: "second"},
		{Match: Match{Cgroups: []string{"/mcp.slice/plain", "/mcp.slice/plain/**"}}, Workload: "free"},
		{Match: Match{Containers: []ContainerMatch{{Names: []string{idA[:12] + "*"}}}}, Workload: "second"},
		{Match: Match{Units: []string{"mcp-b.service"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	names("second", "first", "free", "second")
	if err := r.SetNamed([]Named{{Match: Match{Units: []string{"["}}}}); err == nil {
		t.Error("a broken pattern was taken")
	}
	names("second", "first", "free", "second")
	if err := r.SetNamed(nil); err != nil {
		t.Fatal(err)
	}
	names("first", "first", "mcp.slice", idA[:12])
}

// TestClaimOf: what is captured outside of the slice. A wildcard at the beginning
// would be the whole host.
func TestClaimOf(t *testing.T) {
	for _, tt := range []struct {
		match Match
		path  string
		want  bool
	}{
		{Match{Units: []string{"mcp-*.service"}}, "/system.slice/mcp-a.service", true},
		{Match{Units: []string{"mcp-*.service"}}, "/system.slice/ssh.service", false},
		{Match{Units: []string{"*"}}, "/system.slice/ssh.service", false},
		{Match{Units: []string{"mcp-a.service", "*.service"}}, "/system.slice/mcp-a.service", false},
		{Match{Units: []string{"[s]sh.service"}}, "/system.slice/ssh.service", false},
		{Match{Cgroups: []string{"/**"}}, "/system.slice/ssh.service", false},
		{Match{Cgroups: []string{"/app/**"}}, "/app/x", true},
		{Match{Cgroups: []string{"/app/**"}, Units: []string{"*"}}, "/app/x", false},
		{Match{Containers: []ContainerMatch{{Names: []string{idA}}}}, "/docker/" + idA, true},
		{Match{Containers: []ContainerMatch{{Names: []string{"*"}}}}, "/docker/" + idA, false},
		{Match{Containers: []ContainerMatch{{Names: []string{idA}}}}, "/system.slice/x.service/docker-" + idA + ".scope", false},
		{Match{Commands: []string{"npx"}}, "/app/x", false},
		{Match{Units: []string{"mcp-a.service"}, Users: []string{"alice"}}, "/system.slice/mcp-a.service", false},
		{Match{}, "/app/x", false},
	} {
		r := registry(t, []Entry{{Key: "k", Match: tt.match}}, fakePaths{}, nil)
		claim, ok := r.ClaimOf(tt.path)
		if ok != tt.want || ok && claim.By != "k" {
			t.Errorf("%+v, %s: %+v, %v", tt.match, tt.path, claim, ok)
		}
		if ok && !r.ClaimsElsewhere() {
			t.Errorf("%+v claims something, and nothing is looked for", tt.match)
		}
	}
	r := registry(t, nil, fakePaths{}, nil)
	if err := r.SetNamed([]Named{{Match: Match{Units: []string{Quote(`a\x2db.service`)}}}}); err != nil {
		t.Fatal(err)
	}
	if claim, ok := r.ClaimOf(`/system.slice/a\x2db.service`); !ok || claim.By != "tag" {
		t.Errorf("%+v, %v", claim, ok)
	}
}
