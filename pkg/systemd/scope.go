package systemd

import (
	"context"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// A Scope is a transient unit around processes that somebody else started
// (systemd.scope(5)). It ends with its last process.
type Scope struct {
	// Name ends in ".scope" and is no unit's yet.
	Name string
	// Description is what systemctl shows.
	Description string
	// Slice is where its cgroup is made.
	Slice string
	// PIDs are moved into it, at least one. Each must be known to be the process
	// that is meant, before and after: systemd before 254 takes no pidfds here.
	PIDs []int
	// Delegate leaves the cgroups below it to their processes: systemd neither
	// removes nor changes any.
	Delegate bool
}

// StartScope makes a scope and waits until its processes are in it. An existing
// unit of that name is an error.
func (m *Manager) StartScope(ctx context.Context, s Scope) error {
	if len(s.PIDs) == 0 {
		return fmt.Errorf("scope %s: no process", s.Name)
	}
	pids := make([]uint32, len(s.PIDs))
	for i, pid := range s.PIDs {
		if pid <= 0 {
			return fmt.Errorf("scope %s: %d is no process", s.Name, pid)
		}
		pids[i] = uint32(pid)
	}
	properties := []dbus.Property{
		dbus.PropDescription(s.Description),
		dbus.PropSlice(s.Slice),
		dbus.PropPids(pids...),
		{Name: "Delegate", Value: godbus.MakeVariant(s.Delegate)},
		// A scope whose processes failed would stay as a failed unit and keep its
		// name; nobody asks for it any more.
		{Name: "CollectMode", Value: godbus.MakeVariant("inactive-or-failed")},
		// At shutdown it goes with everything else; nothing orders it otherwise.
		{Name: "DefaultDependencies", Value: godbus.MakeVariant(true)},
	}
	return m.job(ctx, "start", s.Name, func(done chan<- string) (int, error) {
		return m.conn.StartTransientUnitContext(ctx, s.Name, "fail", properties, done)
	})
}
