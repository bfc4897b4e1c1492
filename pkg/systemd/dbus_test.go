package systemd

import (
	"context"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"sallyport/pkg/systemd/systemdtest"
)

// connect gives a manager that speaks to a stand-in for systemd.
func connect(t *testing.T) (*Manager, *systemdtest.Server) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "private")
	server := systemdtest.Start(t, socket)
	conn, err := dbus.NewConnection(func() (*godbus.Conn, error) {
		c, err := godbus.Dial("unix:path=" + socket)
		if err != nil {
			return nil, err
		}
		return c, c.Auth([]godbus.Auth{godbus.AuthExternal("0")})
	})
	if err != nil {
		t.Fatal(err)
	}
	m := &Manager{conn}
	t.Cleanup(m.Close)
	return m, server
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestJobs: a job is waited for, and one that does not end well names its unit and
// how it ended.
func TestJobs(t *testing.T) {
	m, server := connect(t)
	results := map[string]string{"good.service": "done", "bad.service": "failed", "held.service": "dependency"}
	server.Job = func(_, unit string, _ map[string]any) string { return results[unit] }
	for unit := range results {
		server.Put(unit, nil)
	}
	for _, c := range []struct {
		do   func(context.Context, string) error
		call string
	}{
		{m.Start, "StartUnit"}, {m.Stop, "StopUnit"}, {m.Restart, "RestartUnit"}, {m.TryRestart, "TryRestartUnit"}, {m.Reload, "ReloadUnit"},
	} {
		if err := c.do(soon(t), "good.service"); err != nil {
			t.Errorf("%s: %v", c.call, err)
		}
		if calls := server.Calls(); calls[len(calls)-1] != c.call+" good.service" {
			t.Errorf("%s: asked for %q", c.call, calls[len(calls)-1])
		}
		for unit, result := range results {
			if err := c.do(soon(t), unit); result != "done" && (err == nil || !strings.Contains(err.Error(), unit) || !strings.Contains(err.Error(), result)) {
				t.Errorf("%s %s: %v", c.call, unit, err)
			}
		}
		if err := c.do(soon(t), "absent.service"); !errors.Is(err, ErrNoUnit) {
			t.Errorf("%s of an absent unit: %v", c.call, err)
		}
	}
	end := make(chan struct{})
	defer close(end)
	server.Job = func(string, string, map[string]any) string { <-end; return "done" }
	brief, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.Start(brief, "good.service"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a job without an end: %v", err)
	}
}

// TestUnitFiles: what is enabled and disabled, and what systemd reads again.
func TestUnitFiles(t *testing.T) {
	m, server := connect(t)
	units := []string{"a.service", "b.service"}
	if err := errors.Join(m.Enable(soon(t), units...), m.DaemonReload(soon(t)), m.Disable(soon(t), units...)); err != nil {
		t.Fatal(err)
	}
	if want, got := []string{"EnableUnitFiles a.service b.service", "Reload", "DisableUnitFiles a.service b.service"}, server.Calls(); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if v, err := m.Version(); err != nil || v != "252-stand-in" {
		t.Errorf("version %q, %v", v, err)
	}
}

// TestScope: a scope is made around its processes, in its slice, with its own
// cgroups left alone; a second of its name is refused.
func TestScope(t *testing.T) {
	m, server := connect(t)
	var made map[string]any
	server.Job = func(_, _ string, properties map[string]any) string { made = properties; return "done" }
	s := Scope{Name: "x.scope", Description: "a test", Slice: "a.slice", PIDs: []int{7, 8}, Delegate: true}
	if err := m.StartScope(soon(t), s); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"Slice": "a.slice", "PIDs": []uint32{7, 8}, "Delegate": true, "Description": "a test", "CollectMode": "inactive-or-failed"} {
		if !reflect.DeepEqual(made[name], want) {
			t.Errorf("%s is %v, want %v", name, made[name], want)
		}
	}
	if err := m.StartScope(soon(t), s); err == nil || !strings.Contains(err.Error(), "x.scope") {
		t.Errorf("a second one: %v", err)
	}
	for _, pids := range [][]int{nil, {0}, {-1}} {
		s.Name, s.PIDs = "y.scope", pids
		if err := m.StartScope(soon(t), s); err == nil {
			t.Errorf("around %v", pids)
		}
	}
}

// TestUnit: what systemd says of a unit, also of one whose name an object path
// cannot hold.
func TestUnit(t *testing.T) {
	m, server := connect(t)
	name := `mcp@a\x2db-1.service`
	server.Put(name, map[string]any{
		"ActiveState": "active", "FragmentPath": "/etc/systemd/system/mcp@.service", "DropInPaths": []string{"/x.conf"},
		"Before": []string{"mcp.slice"}, "RequiredBy": []string{"mcp.slice"}, "Slice": "mcp.slice", "ControlGroup": "/mcp.slice/x",
		"User": "u", "MainPID": uint32(42), "Environment": []string{"A=b"},
	})
	u, err := m.Unit(soon(t), name)
	if err != nil {
		t.Fatal(err)
	}
	want := &Unit{
		Name: name, LoadState: "loaded", ActiveState: "active", File: "/etc/systemd/system/mcp@.service", DropIns: []string{"/x.conf"},
		Before: []string{"mcp.slice"}, RequiredBy: []string{"mcp.slice"}, Slice: "mcp.slice", Cgroup: "/mcp.slice/x",
		User: "u", MainPID: 42, Environment: []string{"A=b"},
	}
	if !reflect.DeepEqual(u, want) {
		t.Errorf("%+v, want %+v", u, want)
	}
	if _, err := m.Unit(soon(t), "absent.service"); !errors.Is(err, ErrNoUnit) {
		t.Errorf("absent: %v", err)
	}
	if list, err := m.Units(soon(t), "mcp@*.service"); err != nil || !slices.Equal(list, []string{name}) {
		t.Errorf("%q, %v", list, err)
	}
}

// TestPAMName: a service says which PAM session is opened around it, and none where
// a drop-in has emptied that.
func TestPAMName(t *testing.T) {
	m, server := connect(t)
	for _, want := range []string{"login", ""} {
		server.Put("shell.service", map[string]any{"PAMName": want})
		u, err := m.Unit(soon(t), "shell.service")
		if err != nil || u.PAMName != want {
			t.Errorf("%+v, %v, want %q", u, err, want)
		}
	}
}
