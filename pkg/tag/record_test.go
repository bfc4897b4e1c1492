package tag

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/pkg/ca"
	"sallyport/pkg/systemd"
	"sallyport/pkg/workload"
)

// TestStore: tags are kept, replaced and taken back; a file that others may write
// is refused.
func TestStore(t *testing.T) {
	s := Store{State: filepath.Join(t.TempDir(), "state"), Units: t.TempDir()}
	if all, err := s.Tags(); err != nil || len(all) != 0 {
		t.Fatal(all, err)
	}
	before := s.Stamp()
	for _, r := range []Record{
		{Kind: KindCgroup, Name: "/app", Workload: "a"},
		{Kind: KindContainer, Name: "web"},
		{Kind: KindCgroup, Name: "/app", Workload: "b"},
		{Kind: KindLabel, Name: "tier=front", Workload: "c"},
	} {
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	dropIn := unit()
	if _, err := systemd.WriteDropIn(s.Units, "mcp-a.service", []byte(dropIn.DropIn())); err != nil {
		t.Fatal(err)
	}
	if s.Stamp() == before {
		t.Error("the stamp is the same")
	}
	all, err := s.Tags()
	if err != nil || len(all) != 4 || all[0].Name != "mcp-a.service" || all[0].Workload != "github" || all[2].Workload != "b" {
		t.Fatalf("%+v, %v", all, err)
	}
	if err := s.Drop(KindContainer, "web"); err != nil {
		t.Error(err)
	}
	if err := s.Drop(KindContainer, "web"); !errors.Is(err, ErrNotTagged) {
		t.Error(err)
	}
	path := filepath.Join(s.State, fileName)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := s.records(); err == nil || !strings.Contains(err.Error(), "others than root") {
		t.Errorf("a file that anybody may write: %v", err)
	}
	for _, text := range []string{"", "{}", `{"version":2,"tags":[]}`, "[1", `{"version":1,"tags":[{"kind":"pod","name":"a"}]}`} {
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.records(); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

type paths map[uint64]string

func (p paths) Path(id uint64) (string, error) { return p[id], nil }

// TestMatch: what each kind of tag holds for.
func TestMatch(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, tt := range []struct {
		record Record
		path   string
		want   bool
	}{
		{Record{Kind: KindUnit, Name: "a.service"}, "/mcp.slice/a.service/sub", true},
		{Record{Kind: KindUnit, Name: "a.service"}, "/mcp.slice/b.service/a.service", false},
		{Record{Kind: KindUnit, Name: "a@.service"}, "/mcp.slice/a@one.service", true},
		{Record{Kind: KindUnit, Name: "a@.service"}, "/mcp.slice/b@one.service", false},
		{Record{Kind: KindCgroup, Name: "/a[1]*"}, "/a[1]*/x", true},
		{Record{Kind: KindCgroup, Name: "/a[1]*"}, "/a1b", false},
		{Record{Kind: KindCgroup, Name: "/app"}, "/app2", false},
		{Record{Kind: KindContainer, Name: id[:12]}, "/docker/" + id, true},
		{Record{Kind: KindContainer, Name: id[:11]}, "/docker/" + id, false},
		{Record{Kind: KindContainer, Name: id}, "/system.slice/cri-containerd-" + id + ".scope", true},
		{Record{Kind: KindLabel, Name: "tier=front"}, "/docker/" + id, false}, // no engine says so
	} {
		r, err := workload.NewRegistry(nil, paths{1: tt.path}, nil)
		if err != nil {
			t.Fatal(err)
		}
		tt.record.Workload = "tagged"
		if err := r.SetNamed(Named([]Record{tt.record})); err != nil {
			t.Fatal(err)
		}
		got, err := r.Identify(1)
		if err != nil || (got.Name == "tagged") != tt.want {
			t.Errorf("%+v, %s: %+v, %v", tt.record, tt.path, got, err)
		}
	}
}

// TestContainerText: what a person pastes.
func TestContainerText(t *testing.T) {
	c := Container{
		Slice: "mcp.slice", Name: "web", Labels: []string{"tier=front end"},
		Mounts: []ca.Mount{{Source: "/s", Target: "/t"}}, Environment: []string{"A=it's $5"},
	}
	want := "--cgroup-parent=mcp.slice\n--name=web\n'--label=tier=front end'\n--volume=/s:/t:ro\n'--env=A=it'\\''s $5'\n"
	for _, e := range []Engine{Docker, Podman} {
		if got := c.Text(e); got != want {
			t.Errorf("%s: %s", e, got)
		}
	}
	want = "cgroup_parent: 'mcp.slice'\ncontainer_name: 'web'\nlabels:\n  - 'tier=front end'\nvolumes:\n  - '/s:/t:ro'\nenvironment:\n  - 'A=it''s $$5'\n"
	if got := c.Text(Compose); got != want {
		t.Errorf("%s", got)
	}
	if _, err := ParseEngine("rkt"); err == nil {
		t.Error("an unknown engine was taken")
	}
}

// TestRemove: nothing of the tags stays in the state directory.
func TestRemove(t *testing.T) {
	s := Store{State: t.TempDir(), Units: t.TempDir()}
	if err := s.Put(Record{Kind: KindCgroup, Name: "/app"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(s.State); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}
