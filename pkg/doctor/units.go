package doctor

import (
	"context"
	"errors"
	"slices"
	"strings"

	"sallyport/pkg/systemd"
)

// Names of the units (contract: one service, its keeper, its lock).
const (
	workerUnit = "sallyport.service"
	keeperUnit = "sallyport-keeper.service"
	lockUnit   = "sallyport-lock.service"
)

// units looks at what the package put down: there, enabled, running, and the lock
// before the slice.
func (d *Doctor) units(ctx context.Context) []Result {
	if d.Units == nil {
		return []Result{skipped("no systemd here: sallyport run and exec work without")}
	}
	var list []Result
	installed := 0
	for _, name := range []string{lockUnit, keeperUnit, workerUnit, d.Config.Slice} {
		u, err := d.Units(ctx, name)
		r := judgeUnit(name, u, err)
		if !errors.Is(err, systemd.ErrNoUnit) && (u == nil || u.LoadState != "not-found") {
			installed++
		}
		r.Check = name
		list = append(list, r)
	}
	if installed == 0 {
		return []Result{skipped("not installed as a service: sudo sallyport install does that")}
	}
	return append(list, d.order(ctx))
}

// judgeUnit says whether one unit is as it must be.
func judgeUnit(name string, u *systemd.Unit, err error) Result {
	if err == nil && u.LoadState == "not-found" {
		err = systemd.ErrNoUnit
	}
	if errors.Is(err, systemd.ErrNoUnit) {
		return failed("not installed", "sudo sallyport install")
	}
	if err != nil {
		return failed(err.Error(), "systemctl status "+name)
	}
	slice := strings.HasSuffix(name, ".slice")
	switch {
	case u.LoadState == "masked" && name == lockUnit:
		return failed("masked: nothing shuts the gate at boot, and nothing of the slice starts", "systemctl unmask "+name)
	case u.LoadState == "masked":
		return failed("masked: what is tagged is refused", "systemctl unmask "+name)
	case u.LoadState != "loaded":
		return failed(u.LoadState, "systemctl status "+name+" says why")
	case u.NeedDaemonReload:
		return warned("its files have changed since systemd read them", "systemctl daemon-reload")
	case u.ActiveState == "failed":
		return failed("failed", "journalctl -u "+name)
	case !u.Active() && !slice:
		return failed("not running: what is tagged is refused", "systemctl start "+name)
	case !slice && !slices.Contains([]string{"enabled", "enabled-runtime", "static", "alias", "indirect"}, u.UnitFileState):
		return failed("running, but "+u.UnitFileState+": not after the next boot", "systemctl enable "+name)
	}
	return ok(strings.TrimSuffix(u.ActiveState+", "+u.UnitFileState, ", "))
}

// engineUnits are the services that may make containers below the slice without
// asking systemd for it (driver cgroupfs).
var engineUnits = []string{"docker.service", "containerd.service", "podman.service"}

// order compares what systemd starts before and with what: the slice must not be
// there without the lock, nor an engine before it.
func (d *Doctor) order(ctx context.Context) Result {
	// Anew: the slice, which says what it requires, has been loaded since.
	lock, err := d.Units(ctx, lockUnit)
	if err != nil {
		return Result{Check: "order", Status: Failed, Detail: err.Error(), Remedy: "see " + lockUnit + " above"}
	}
	r := judgeOrder(lock, d.Config.Slice)
	r.Check = "order"
	return r
}

func judgeOrder(lock *systemd.Unit, slice string) Result {
	if !slices.Contains(lock.RequiredBy, slice) {
		return failed(slice+" starts without "+lockUnit+": what it holds may run before the gate is shut",
			"systemctl edit "+slice+": in [Unit], Requires="+lockUnit+" and After="+lockUnit)
	}
	if !slices.Contains(lock.Before, slice) {
		return failed(slice+" starts beside "+lockUnit+", not after it", "systemctl edit "+slice+": in [Unit], After="+lockUnit)
	}
	var early []string
	for _, engine := range engineUnits {
		if !slices.Contains(lock.Before, engine) {
			early = append(early, engine)
		}
	}
	if len(early) > 0 {
		return failed(strings.Join(early, ", ")+" may start before the gate is shut",
			"systemctl edit "+lockUnit+": in [Unit], Before="+strings.Join(early, " "))
	}
	return ok(lockUnit + " comes before " + slice + ", which requires it, and before the container engines")
}
