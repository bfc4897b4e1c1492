// Package systemd speaks to systemd over D-Bus: units and their properties,
// jobs, transient scopes and drop-ins. It starts no systemctl.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

var (
	// ErrNotRunning says that systemd is not this host's service manager, or
	// does not answer.
	ErrNotRunning = errors.New("systemd does not run here")
	// ErrNoUnit says that systemd knows no unit of that name.
	ErrNoUnit = errors.New("no such unit")
)

// Available reports whether systemd is process 1 (sd_booted(3)).
func Available() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

// A Manager is a connection to the system's systemd. It is safe for concurrent
// use.
type Manager struct {
	conn *dbus.Conn
}

// Connect opens a connection: root speaks to systemd itself, so that a bus that
// has not started yet, or has ended, is not missed. Errors wrap ErrNotRunning.
// The connection ends with ctx.
func Connect(ctx context.Context) (*Manager, error) {
	if !Available() {
		return nil, ErrNotRunning
	}
	var conn *dbus.Conn
	err := errors.New("not root")
	if os.Geteuid() == 0 {
		conn, err = dbus.NewSystemdConnectionContext(ctx)
	}
	if err != nil {
		var bus error
		if conn, bus = dbus.NewSystemConnectionContext(ctx); bus != nil {
			return nil, fmt.Errorf("%w: private socket: %w; bus: %w", ErrNotRunning, err, bus)
		}
	}
	return &Manager{conn}, nil
}

// Close ends the connection.
func (m *Manager) Close() { m.conn.Close() }

// DaemonReload has systemd read all unit files and drop-ins again; what runs
// goes on as it is.
func (m *Manager) DaemonReload(ctx context.Context) error {
	if err := m.conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("systemd: daemon-reload: %w", err)
	}
	return nil
}

// Version is systemd's own, as it tells it: "252.39-1~deb12u1".
func (m *Manager) Version() (string, error) {
	v, err := m.conn.GetManagerProperty("Version")
	if err != nil {
		return "", fmt.Errorf("systemd: version: %w", err)
	}
	// A GVariant string is quoted.
	if len(v) >= 2 && v[0] == '"' {
		v = v[1 : len(v)-1]
	}
	return v, nil
}

// unitError names the unit, and gives ErrNoUnit where systemd knows none.
func unitError(what, unit string, err error) error {
	var e godbus.Error
	if errors.As(err, &e) && (e.Name == "org.freedesktop.systemd1.NoSuchUnit" || e.Name == "org.freedesktop.DBus.Error.UnknownObject") {
		return fmt.Errorf("%s %s: %w", what, unit, ErrNoUnit)
	}
	return fmt.Errorf("%s %s: %w", what, unit, err)
}
