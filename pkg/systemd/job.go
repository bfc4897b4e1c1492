package systemd

import (
	"context"
	"fmt"
)

// Start starts a unit and waits until it is active.
func (m *Manager) Start(ctx context.Context, unit string) error {
	return m.job(ctx, "start", unit, func(done chan<- string) (int, error) {
		return m.conn.StartUnitContext(ctx, unit, "replace", done)
	})
}

// Stop stops a unit and waits until it is inactive.
func (m *Manager) Stop(ctx context.Context, unit string) error {
	return m.job(ctx, "stop", unit, func(done chan<- string) (int, error) {
		return m.conn.StopUnitContext(ctx, unit, "replace", done)
	})
}

// Restart restarts a unit, or starts it, and waits until it is active.
func (m *Manager) Restart(ctx context.Context, unit string) error {
	return m.job(ctx, "restart", unit, func(done chan<- string) (int, error) {
		return m.conn.RestartUnitContext(ctx, unit, "replace", done)
	})
}

// TryRestart restarts a unit that runs, and leaves one alone that does not.
func (m *Manager) TryRestart(ctx context.Context, unit string) error {
	return m.job(ctx, "restart", unit, func(done chan<- string) (int, error) {
		return m.conn.TryRestartUnitContext(ctx, unit, "replace", done)
	})
}

// Reload has a running unit read its configuration again.
func (m *Manager) Reload(ctx context.Context, unit string) error {
	return m.job(ctx, "reload", unit, func(done chan<- string) (int, error) {
		return m.conn.ReloadUnitContext(ctx, unit, "replace", done)
	})
}

// job asks for a job and waits for its end, or for ctx's.
func (m *Manager) job(ctx context.Context, what, unit string, ask func(done chan<- string) (int, error)) error {
	// One place: the library must never wait for us.
	done := make(chan string, 1)
	if _, err := ask(done); err != nil {
		return unitError(what, unit, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s %s: %w", what, unit, ctx.Err())
	case result := <-done:
		// done, canceled, timeout, failed, dependency or skipped.
		if result != "done" {
			return fmt.Errorf("%s %s: systemd's job ended with %q; journalctl -u %s says more", what, unit, result, unit)
		}
	}
	return nil
}

// Enable makes units start at boot as their [Install] says. DaemonReload must
// follow.
func (m *Manager) Enable(ctx context.Context, units ...string) error {
	if _, _, err := m.conn.EnableUnitFilesContext(ctx, units, false, true); err != nil {
		return fmt.Errorf("enable %q: %w", units, err)
	}
	return nil
}

// Disable undoes Enable. DaemonReload must follow.
func (m *Manager) Disable(ctx context.Context, units ...string) error {
	if _, err := m.conn.DisableUnitFilesContext(ctx, units, false); err != nil {
		return fmt.Errorf("disable %q: %w", units, err)
	}
	return nil
}

// ResetFailed forgets that units have failed. One that systemd does not know is
// passed over.
func (m *Manager) ResetFailed(ctx context.Context, units ...string) {
	for _, u := range units {
		// Nothing depends on it: a unit that is gone has no failure to forget.
		_ = m.conn.ResetFailedUnitContext(ctx, u)
	}
}
