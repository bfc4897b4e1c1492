package workload

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakePaths knows the paths of ids.
type fakePaths map[uint64]string

func (f fakePaths) Path(id uint64) (string, error) {
	if p, ok := f[id]; ok {
		return p, nil
	}
	return "", ErrGone
}

type fakeContainers map[string]Container

func (f fakeContainers) Container(id string) (Container, error) {
	if c, ok := f[id]; ok {
		return c, nil
	}
	return Container{}, errors.New("no such container")
}

func registry(t testing.TB, entries []Entry, paths fakePaths, containers Containers) *Registry {
	t.Helper()
	r, err := NewRegistry(entries, paths, containers)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestIdentify(t *testing.T) {
	entries := []Entry{
		{Key: "named-only"},
		{Key: "github", Match: Match{Units: []string{"mcp-github.service"}}},
		{Key: "first", Match: Match{Units: []string{"mcp-*.service"}}, Name: "{unit}"},
		{Key: "second", Match: Match{Units: []string{"mcp-a.service"}}},
		{Key: "both", Match: Match{Units: []string{"both.service"}, Cgroups: []string{"/right.slice/**"}}},
		{Key: "web", Match: Match{Containers: []ContainerMatch{{Names: []string{"web-*"}, Images: []string{"nginx:*"}, Labels: map[string][]string{"tier": {"front", "f*"}}}}}, Name: "c/{container}"},
		{Key: "by-id", Match: Match{Containers: []ContainerMatch{{Names: []string{idB}}}}, Name: "{container}"},
		{Key: "npx", Match: Match{Commands: []string{"npx *server-github*"}, Users: []string{"alice", "b*"}}, Name: "{command}-of-{unit}"},
		{Key: "tree", Match: Match{Cgroups: []string{"/plain/*"}}, Name: "{unit}"},
	}
	web := fakeContainers{idA: {Name: "web-1", Image: "nginx:1.27", Labels: map[string]string{"tier": "front"}, Cgroup: "/docker/" + idA + "/init"}}
	base := Identity{Confined: true}
	with := func(change func(*Identity)) Identity { i := base; change(&i); return i }
	unit := func(name, entry, path, unit string) Identity {
		return with(func(i *Identity) { i.Name, i.Entry, i.Cgroup, i.Unit = name, entry, path, unit })
	}
	tests := []struct {
		name string
		path string
		tag  *Tag
		want Identity
	}{
		{"exact", "/s.slice/mcp-github.service", nil, unit("github", "github", "/s.slice/mcp-github.service", "mcp-github.service")},
		{"first in file order wins, template", "/mcp-a.service", nil, unit("mcp-a.service", "first", "/mcp-a.service", "mcp-a.service")},
		{"escaped unit", `/mcp\x2db.service/sub`, nil, unit(`mcp\x2db.service`, "first", `/mcp\x2db.service/sub`, `mcp\x2db.service`)},
		{"all keys hold", "/right.slice/both.service", nil, unit("both", "both", "/right.slice/both.service", "both.service")},
		{"one key does not", "/wrong.slice/both.service", nil, unit("both.service", "", "/wrong.slice/both.service", "both.service")},
		{"container", "/docker/" + idA, nil, with(func(i *Identity) { i.Name, i.Entry, i.Cgroup, i.Container = "c/web-1", "web", "/docker/"+idA, idA })},
		{"a container in a container's cgroup that it is not", "/docker/" + idB + "/docker/" + idA, nil, with(func(i *Identity) {
			i.Name, i.Entry, i.Cgroup, i.Container = idB[:12], "by-id", "/docker/"+idB+"/docker/"+idA, idB
		})},
		{"inside a container, another that no engine knows", "/docker/" + idA + "/docker/" + idB, nil, with(func(i *Identity) {
			i.Name, i.Entry, i.Cgroup, i.Container = "c/web-1", "web", "/docker/"+idA+"/docker/"+idB, idA
		})},
		{"a container that no engine knows, by the id where only root writes one", "/docker/" + idB, nil, with(func(i *Identity) {
			i.Name, i.Entry, i.Cgroup, i.Container = "ffffffffffff", "by-id", "/docker/"+idB, idB
		})},
		{"a service that calls a cgroup of its own a container", "/s.slice/evil.service/docker-" + idB + ".scope", nil,
			unit("evil.service", "", "/s.slice/evil.service/docker-"+idB+".scope", "evil.service")},
		{"a service that calls a cgroup of its own a service", "/s.slice/evil.service/mcp-github.service", nil,
			unit("evil.service", "", "/s.slice/evil.service/mcp-github.service", "evil.service")},
		{"plain", "/plain/x", nil, with(func(i *Identity) { i.Name, i.Entry, i.Cgroup = "tree", "tree", "/plain/x" })},
		{"plain unmatched", "/other/thing", nil, with(func(i *Identity) { i.Name, i.Cgroup = "thing", "/other/thing" })},
		{"root", "/", nil, with(func(i *Identity) { i.Name, i.Cgroup = "root", "/" })},
		{"command unmatched", "/exec/1", &Tag{Argv: []string{"/usr/bin/my server", "-v"}, User: "eve"},
			with(func(i *Identity) {
				i.Name, i.Cgroup, i.Command, i.User = "my server", "/exec/1", "/usr/bin/my server -v", "eve"
			})},
		{"command matched; template without value is the key", "/exec/1", &Tag{Argv: []string{"npx", "-y", "@mcp/server-github"}, User: "alice"},
			with(func(i *Identity) {
				i.Name, i.Entry, i.Cgroup, i.Command, i.User = "npx", "npx", "/exec/1", "npx -y @mcp/server-github", "alice"
			})},
		{"command of another user", "/exec/1", &Tag{Argv: []string{"npx", "-y", "@mcp/server-github"}, User: "eve"},
			with(func(i *Identity) {
				i.Name, i.Cgroup, i.Command, i.User = "unlisted:npx", "/exec/1", "npx -y @mcp/server-github", "eve"
			})},
		{"root stays root", "/exec/1", &Tag{Argv: []string{"id"}, User: "root", Unconfined: true},
			Identity{Name: "id", Cgroup: "/exec/1", Command: "id", User: "root"}},
		{"--workload without match", "/exec/1", &Tag{Argv: []string{"id"}, Workload: "named-only"},
			with(func(i *Identity) { i.Name, i.Entry, i.Cgroup, i.Command = "named-only", "named-only", "/exec/1", "id" })},
		{"--workload of a unit's entry", "/exec/1", &Tag{Argv: []string{"id"}, Workload: "github"},
			with(func(i *Identity) { i.Name, i.Entry, i.Cgroup, i.Command = "github", "github", "/exec/1", "id" })},
		{"--workload not configured", "/exec/1", &Tag{Argv: []string{"id"}, Workload: "my\nown"},
			with(func(i *Identity) { i.Name, i.Cgroup, i.Command = "my_own", "/exec/1", "id" })},
		{"tagged unit", "/s/mcp-github.service", &Tag{}, unit("github", "github", "/s/mcp-github.service", "mcp-github.service")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := registry(t, entries, fakePaths{7: tt.path, 8: tt.path + "/below"}, web)
			if tt.tag != nil {
				tag := *tt.tag
				tag.ID, tag.Path = 7, tt.path
				got, err := r.Add(tag)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("Add: %s", diff)
				}
			}
			for range 2 { // worked out, remembered
				got, err := r.Identify(7)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Error(diff)
				}
			}
			if tt.tag != nil && len(tt.tag.Argv) > 0 {
				got, err := r.Identify(8)
				if err != nil || got.Name != tt.want.Name || got.Command != tt.want.Command {
					t.Errorf("below a tagged cgroup: %+v, %v", got, err)
				}
			}
		})
	}
}

func TestRegistry(t *testing.T) {
	entries := []Entry{{Key: "w", Match: Match{Commands: []string{"id*"}, Users: []string{"alice"}}}}
	paths := fakePaths{1: "/exec/1/sub"}
	r := registry(t, entries, paths, nil)
	if _, err := r.Identify(99); !errors.Is(err, ErrGone) {
		t.Errorf("an unknown id: %v", err)
	}
	for _, tag := range []Tag{
		{ID: 5, Path: "/exec/1", Argv: []string{"id"}, User: "eve", Workload: "w"},
		{ID: 5, Path: "/exec/1", Argv: []string{"sh"}, User: "alice", Workload: "w"},
	} {
		if _, err := r.Add(tag); !errors.Is(err, ErrMismatch) {
			t.Errorf("%+v: %v", tag, err)
		}
	}
	if len(r.Tags()) != 0 {
		t.Error("a refused tag stayed")
	}
	if _, err := r.Add(Tag{ID: 5, Path: "../x"}); err == nil {
		t.Error("a bad path is accepted")
	}
	// Before it was tagged the id is known as plain; the tag changes it.
	if i, err := r.Identify(1); err != nil || i.Name != "sub" {
		t.Errorf("%+v, %v", i, err)
	}
	if _, err := r.Add(Tag{ID: 5, Path: "/exec/1/", Argv: []string{"id"}, User: "alice", Workload: "w"}); err != nil {
		t.Fatal(err)
	}
	if i, err := r.Identify(1); err != nil || i.Name != "w" {
		t.Errorf("below the tag: %+v, %v", i, err)
	}
	// Its own id is known without asking the kernel.
	if i, err := r.Identify(5); err != nil || i.Name != "w" {
		t.Errorf("the tag: %+v, %v", i, err)
	}
	if err := r.SetEntries([]Entry{{Key: "new", Match: Match{Users: []string{"alice"}}}}); err != nil {
		t.Fatal(err)
	}
	if i, err := r.Identify(5); err != nil || i.Name != "w" || i.Entry != "" {
		t.Errorf("after a reload: %+v, %v", i, err)
	}
	r.Remove(5)
	r.Remove(5)
	if i, err := r.Identify(5); err != nil || i.Name != "w" {
		t.Errorf("a flow that ends after its cgroup: %+v, %v", i, err)
	}
	if len(r.Tags()) != 0 {
		t.Error("the tag stayed")
	}
	// What is tagged next makes all names be worked out anew, not that of the
	// command that has ended: below a tagged slice it would get that one's.
	if _, err := r.Add(Tag{ID: 6, Path: "/exec"}); err != nil {
		t.Fatal(err)
	}
	if i, err := r.Identify(5); err != nil || i.Name != "w" || i.Command != "id" || i.Cgroup != "/exec/1" {
		t.Errorf("a flow that ends after its cgroup and after another command has begun: %+v, %v", i, err)
	}
	if _, err := r.Add(Tag{ID: 5, Path: "/exec/1", Argv: []string{"ls"}}); err != nil {
		t.Fatal(err)
	}
	if i, err := r.Identify(5); err != nil || i.Name != "ls" {
		t.Errorf("tagged again: %+v, %v", i, err)
	}
}

func TestRegistryIsBounded(t *testing.T) {
	r := registry(t, nil, nil, nil)
	for i := range MaxTagged {
		if _, err := r.Add(Tag{ID: uint64(i + 1), Path: fmt.Sprintf("/c/%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Add(Tag{ID: 1 << 40, Path: "/one-more"}); !errors.Is(err, ErrFull) {
		t.Errorf("over the bound: %v", err)
	}
	if _, err := r.Add(Tag{ID: 1 << 41, Path: "/c/5"}); err != nil {
		t.Errorf("replacing when full: %v", err)
	}
	if got := r.Resources()[0]; got != (Resource{"workloads", MaxTagged, MaxTagged}) {
		t.Errorf("%+v", got)
	}
	many := fakePaths{}
	r = registry(t, nil, many, nil)
	for i := range uint64(identityCache + 10) {
		many[i] = "/x"
		if _, err := r.Identify(i); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.Resources()[1]; got.Entries != identityCache || got.Capacity != identityCache {
		t.Errorf("%+v", got)
	}
	i, err := r.Add(Tag{ID: 1, Path: "/x", Argv: []string{"a", strings.Repeat("b", 1<<20)}})
	if err != nil || len(i.Command) > maxCommand {
		t.Errorf("a command of %d bytes is remembered, %v", len(i.Command), err)
	}
}

func TestBadEntries(t *testing.T) {
	for _, e := range []Entry{
		{Key: "k", Match: Match{Units: []string{"["}}},
		{Key: "k", Match: Match{Containers: []ContainerMatch{{Labels: map[string][]string{"a": {"[b"}}}}}},
		{Key: "k", Name: "{unit"},
		{Key: "k", Name: "{host}"},
	} {
		if _, err := NewRegistry([]Entry{e}, nil, nil); err == nil || !strings.Contains(err.Error(), "workload k") {
			t.Errorf("%+v: %v", e, err)
		}
	}
	r := registry(t, []Entry{{Key: "old"}}, nil, nil)
	if err := r.SetEntries([]Entry{{Name: "{"}}); err == nil {
		t.Error("a bad reload is accepted")
	}
	if len(r.entries) != 1 || r.entries[0].Key != "old" {
		t.Error("a bad reload changed something")
	}
}

// TestContainerIsAskedForAgain: what no engine knew, because none answered, is
// not what the container stays. Without an entry for containers none is asked.
func TestContainerIsAskedForAgain(t *testing.T) {
	entries := []Entry{{Key: "web", Match: Match{Containers: []ContainerMatch{{Names: []string{"web"}}}}}}
	engines := fakeContainers{}
	r := registry(t, entries, fakePaths{1: "/docker/" + idA}, engines)
	if i, err := r.Identify(1); err != nil || i.Entry != "" {
		t.Errorf("%+v, %v", i, err)
	}
	engines[idA] = Container{Name: "web", Cgroup: "/docker/" + idA}
	if i, err := r.Identify(1); err != nil || i.Entry != "web" {
		t.Errorf("%+v, %v", i, err)
	}
	delete(engines, idA)
	if i, err := r.Identify(1); err != nil || i.Entry != "web" {
		t.Errorf("forgotten: %+v, %v", i, err)
	}
	if err := r.SetEntries([]Entry{{Key: "x", Match: Match{Units: []string{"*"}}}}); err != nil {
		t.Fatal(err)
	}
	if r.asks.Load() {
		t.Error("engines are asked for nothing")
	}
	if i, err := r.Identify(1); err != nil || i.Name != idA[:12] {
		t.Errorf("%+v, %v", i, err)
	}
}

// TestUnknownMatchesNothing: an engine that does not answer must not make a
// container look like a configured one.
func TestUnknownMatchesNothing(t *testing.T) {
	entries := []Entry{
		{Key: "a", Match: Match{Containers: []ContainerMatch{{Images: []string{"*"}}}}},
		{Key: "b", Match: Match{Containers: []ContainerMatch{{Labels: map[string][]string{"x": {"*", ""}}}}}},
		{Key: "c", Match: Match{Containers: []ContainerMatch{{}}}},
		{Key: "d", Match: Match{Users: []string{"*"}}},
		{Key: "e", Match: Match{Commands: []string{"**"}}},
		{Key: "f", Match: Match{Units: []string{"*"}}},
	}
	for _, c := range []Containers{nil, fakeContainers{}} {
		r := registry(t, entries, fakePaths{1: "/docker/" + idA}, c)
		if i, err := r.Identify(1); err != nil || i.Entry != "" || i.Name != idA[:12] {
			t.Errorf("%+v, %v", i, err)
		}
	}
}

func BenchmarkIdentify(b *testing.B) {
	r := registry(b, nil, fakePaths{1: "/system.slice/a.service"}, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Identify(1); err != nil {
			b.Fatal(err)
		}
	}
}
