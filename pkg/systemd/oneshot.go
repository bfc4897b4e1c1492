package systemd

import (
	"context"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// RunOnce has systemd run a command as a service of its own and waits for its
// end. A command that fails is an error, and its words are in the journal under
// the unit's name, which must end in ".service" and be no unit's yet.
func (m *Manager) RunOnce(ctx context.Context, unit, description string, argv ...string) error {
	properties := []dbus.Property{
		dbus.PropDescription(description),
		dbus.PropType("oneshot"),
		dbus.PropExecStart(argv, true),
		{Name: "CollectMode", Value: godbus.MakeVariant("inactive-or-failed")},
	}
	return m.job(ctx, "run", unit, func(done chan<- string) (int, error) {
		return m.conn.StartTransientUnitContext(ctx, unit, "fail", properties, done)
	})
}
