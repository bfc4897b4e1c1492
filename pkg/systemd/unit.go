package systemd

import (
	"context"
	"fmt"
	"strings"
)

// A Unit is what systemd says of one: its files as it has read them last, and
// its state.
type Unit struct {
	// Name is the unit's own, which an alias leads to.
	Name string
	// LoadState is loaded, masked, not-found, bad-setting or error.
	LoadState string
	// ActiveState is active, reloading, inactive, failed, activating or
	// deactivating.
	ActiveState string
	// File is the unit file; "" for a unit that has none.
	File string
	// DropIns are the drop-ins that systemd has read.
	DropIns []string
	// Transient says that the unit was made by a program and has no lasting file.
	Transient bool
	// Slice is the slice above it, for units that have a cgroup.
	Slice string
	// Cgroup is its path below the cgroup mount, "" while nothing runs.
	Cgroup string
	// NeedDaemonReload says that the files have changed since they were read.
	NeedDaemonReload bool
	// UnitFileState is enabled, disabled, static, masked and so on.
	UnitFileState string
	// Before are the units that are not started before this one is; RequiredBy are
	// those that are not started without it.
	Before, RequiredBy []string
	// TriggeredBy are the units that start this one: sockets, timers, paths.
	TriggeredBy []string

	// What follows is of services only.

	// User is User=, "" for root; Dynamic is DynamicUser=.
	User    string
	Dynamic bool
	// PAMName is the PAM service whose session is opened around it, "" for none.
	PAMName string
	// Environment is Environment= as NAME=VALUE; EnvironmentFiles are the paths
	// of EnvironmentFile=, those that may be missing included.
	Environment      []string
	EnvironmentFiles []string
	// Families are those of RestrictAddressFamilies=: the only ones where
	// FamiliesAllowed is set, else those that are refused.
	Families        []string
	FamiliesAllowed bool
	// MainPID is the main process, 0 while none runs.
	MainPID int
}

// Active reports whether something of the unit runs.
func (u *Unit) Active() bool { return u.ActiveState != "inactive" && u.ActiveState != "failed" }

// Kind is the unit's type: "service", "slice", "scope", "socket", …
func (u *Unit) Kind() string { return KindOf(u.Name) }

// KindOf is the type that a unit's name ends with, "" for a name without one.
func KindOf(name string) string {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return ""
	}
	return name[i+1:]
}

// Unit asks for a unit, which systemd loads for that if it is not. A unit that has
// no file and does not run gives ErrNoUnit.
func (m *Manager) Unit(ctx context.Context, name string) (*Unit, error) {
	p, err := m.conn.GetUnitPropertiesContext(ctx, name)
	if err != nil {
		return nil, unitError("unit", name, err)
	}
	u := &Unit{
		Name:             text(p["Id"]),
		LoadState:        text(p["LoadState"]),
		ActiveState:      text(p["ActiveState"]),
		File:             text(p["FragmentPath"]),
		DropIns:          texts(p["DropInPaths"]),
		UnitFileState:    text(p["UnitFileState"]),
		Transient:        truth(p["Transient"]),
		NeedDaemonReload: truth(p["NeedDaemonReload"]),
		Before:           texts(p["Before"]),
		RequiredBy:       texts(p["RequiredBy"]),
		TriggeredBy:      texts(p["TriggeredBy"]),
	}
	if u.Name == "" {
		return nil, fmt.Errorf("unit %s: systemd gives it no name", name)
	}
	if u.LoadState == "not-found" && !u.Active() {
		return nil, fmt.Errorf("unit %s: %w", name, ErrNoUnit)
	}
	return u, m.withCgroup(ctx, u)
}

// withCgroup adds what only the unit's type knows.
func (m *Manager) withCgroup(ctx context.Context, u *Unit) error {
	switch u.Kind() {
	case "service", "socket", "mount", "swap", "scope", "slice":
	default:
		return nil // no process is ever below it
	}
	kind := u.Kind()
	p, err := m.conn.GetUnitTypePropertiesContext(ctx, u.Name, strings.ToUpper(kind[:1])+kind[1:])
	if err != nil {
		return unitError("unit", u.Name, err)
	}
	u.Slice, u.Cgroup = text(p["Slice"]), text(p["ControlGroup"])
	u.User, u.Dynamic = text(p["User"]), truth(p["DynamicUser"])
	u.PAMName = text(p["PAMName"])
	u.Environment = texts(p["Environment"])
	if pid, ok := p["MainPID"].(uint32); ok {
		u.MainPID = int(pid)
	}
	// (bas): whether it is a list of the allowed, and the list.
	if f, ok := p["RestrictAddressFamilies"].([]any); ok && len(f) == 2 {
		u.FamiliesAllowed, u.Families = truth(f[0]), texts(f[1])
	}
	// a(sb): path, and whether it may be missing.
	files, _ := p["EnvironmentFiles"].([][]any)
	for _, f := range files {
		if len(f) > 0 {
			u.EnvironmentFiles = append(u.EnvironmentFiles, text(f[0]))
		}
	}
	return nil
}

// Units names the loaded units that one of the glob patterns matches.
func (m *Manager) Units(ctx context.Context, patterns ...string) ([]string, error) {
	list, err := m.conn.ListUnitsByPatternsContext(ctx, nil, patterns)
	if err != nil {
		return nil, fmt.Errorf("systemd: list units: %w", err)
	}
	names := make([]string, len(list))
	for i, u := range list {
		names[i] = u.Name
	}
	return names, nil
}

// UnitOf names the unit that a process belongs to. The number must be known to
// be that process's, before and after.
func (m *Manager) UnitOf(ctx context.Context, pid int) (string, error) {
	name, err := m.conn.GetUnitNameByPID(ctx, uint32(pid))
	if err != nil {
		return "", fmt.Errorf("systemd: unit of process %d: %w", pid, err)
	}
	return name, nil
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func texts(v any) []string {
	s, _ := v.([]string)
	return s
}

func truth(v any) bool {
	b, _ := v.(bool)
	return b
}
