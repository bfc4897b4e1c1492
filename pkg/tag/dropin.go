package tag

import (
	"fmt"
	"slices"
	"strings"

	"sallyport/pkg/ca"
	"sallyport/pkg/confine"
)

// A Unit is what a drop-in says of one unit.
type Unit struct {
	// Slice is the slice whose members are captured.
	Slice string
	// Workload is the value of --workload; "" keeps the unit's own name.
	Workload string
	// Allow are the parts of the hardening that are left out.
	Allow []Opening
	// Kept are the variables that the unit sets itself and keeps.
	Kept []ca.Kept
	// Hidden are the paths that it must not reach; Own are sallyport's, which no
	// opening shows.
	Hidden, Own []string
	// Families are the socket families that it may use; none is "none".
	Families []string
	// Mounts are the trust directories, Environment the variables that point to
	// them.
	Mounts      []ca.Mount
	Environment []string
}

// section is ours: systemd passes over sections that begin with "X-"
// (systemd.syntax(7)).
const section = "[X-Sallyport]"

// DropIn is the text of the drop-in (systemd.exec(5), systemd.resource-control(5)).
// A setting that is a list is emptied first where the unit's own must not be added
// to ours.
func (u *Unit) DropIn() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	unless := func(o Opening, why string, settings ...string) {
		if slices.Contains(u.Allow, o) {
			line("# Allowed: %s.", o)
			return
		}
		line("# %s", why)
		for _, s := range settings {
			line("%s", s)
		}
	}
	line("# Written by `sallyport tag unit`, removed by `sallyport untag unit`. Tagging again")
	line("# writes it anew: put settings of your own into another drop-in.")
	line("%s", section)
	line("Workload=%s", escape(u.Workload))
	line("Allow=%s", joinOpenings(u.Allow))
	for _, k := range u.Kept {
		line("Kept=%s=%s", k.Variable, escape(k.Path))
	}
	line("")
	line("[Unit]")
	line("# Wanted, never required: the unit outlives a stop or an upgrade of sallyport,")
	line("# before a shut gate.")
	line("Wants=sallyport.service")
	line("After=sallyport.service")
	line("")
	line("[Service]")
	line("# What runs below the slice is captured from its first instruction.")
	line("Slice=%s", escape(u.Slice))
	line("")
	unless(Privileges, "No setuid program gives it more than it has.", "NoNewPrivileges=yes")
	unless(Capabilities, "No capability, in no way.", "CapabilityBoundingSet=", "AmbientCapabilities=")
	if !slices.Contains(u.Allow, Capabilities) {
		unless(Users, "In a user namespace of its own it may not trace processes outside, nor take their descriptors.", "PrivateUsers=yes")
	}
	unless(Namespaces, "No network, mount or user namespace beyond the one that it starts in.", "RestrictNamespaces=yes")
	families := "none"
	if len(u.Families) > 0 {
		families = strings.Join(u.Families, " ")
	}
	unless(Families, "No socket that no program on the cgroup sees.", "RestrictAddressFamilies=", "RestrictAddressFamilies="+families)
	unless(Syscalls, "Nobody outside is traced, and no kernel thread works for it: io_uring, /sbin/request-key.",
		"SystemCallArchitectures=native",
		"SystemCallFilter=~io_uring_setup:ENOSYS io_uring_enter:ENOSYS io_uring_register:ENOSYS request_key:ENOSYS @debug:EPERM")
	unless(Cgroups, "It cannot leave its cgroup.", "ProtectControlGroups=yes")
	unless(Sockets, "Nobody outside looks up a name, opens a connection or starts a program for it.", inaccessible(u.Hidden)...)
	for _, l := range inaccessible(u.Own) {
		line("%s", l)
	}
	line("")
	line("# The certificates of the system and sallyport's, kept current while it runs.")
	for _, m := range u.Mounts {
		line("BindReadOnlyPaths=-%s", quote(colons(m.Source)+":"+colons(m.Target)))
	}
	for _, e := range u.Environment {
		line("Environment=%s", quote(e))
	}
	return b.String()
}

func inaccessible(paths []string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = "InaccessiblePaths=-" + quote(p)
	}
	return out
}

// escape doubles what begins a specifier (systemd.unit(5)).
func escape(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// quote makes one word of a text (systemd.syntax(7), Quoting).
func quote(s string) string {
	s = escape(s)
	if !strings.ContainsAny(s, " \t\n\"'\\;") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// colons escapes what parts source and target.
func colons(s string) string { return strings.ReplaceAll(s, ":", `\:`) }

// familiesOf gives those that a command of `exec` has and a unit's own setting
// leaves: a list of the allowed, or of the refused.
func familiesOf(own []string, allowed bool) []string {
	var out []string
	for _, f := range confine.Families() {
		if slices.Contains(own, f) == allowed {
			out = append(out, f)
		}
	}
	return out
}

// A statement is what a drop-in says for the keeper.
type statement struct {
	Workload string
	Allow    []Opening
	Kept     []ca.Kept
}

// parseDropIn reads back what the drop-in says of the workload. A text that is
// none of ours, or was changed so that it says something unknown, is an error.
func parseDropIn(text string) (statement, error) {
	var said statement
	inside, found := false, false
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "[") {
			inside = l == section
			found = found || inside
			continue
		}
		name, value, ok := strings.Cut(l, "=")
		if !inside || !ok || strings.HasPrefix(l, "#") {
			continue
		}
		switch name {
		case "Workload":
			said.Workload = strings.ReplaceAll(value, "%%", "%")
		case "Kept":
			if name, path, ok := strings.Cut(value, "="); ok {
				said.Kept = append(said.Kept, ca.Kept{Variable: name, Path: strings.ReplaceAll(path, "%%", "%")})
			}
		case "Allow":
			var err error
			if said.Allow, err = ParseOpenings([]string{value}); err != nil {
				return statement{}, err
			}
		}
	}
	if !found {
		return statement{}, fmt.Errorf("no section %s", section)
	}
	return said, nil
}
