package systemdtest

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Names of errors, as systemd gives them.
const (
	noSuchUnit    = "org.freedesktop.systemd1.NoSuchUnit"
	unitExists    = "org.freedesktop.systemd1.UnitExists"
	unknownMethod = "org.freedesktop.DBus.Error.UnknownMethod"
)

// answer does what a call asks for: the reply's body, what follows the reply, or
// the name of an error.
func (s *Server) answer(m *dbus.Message) (body []any, after func(), failure string) {
	word := func(f dbus.HeaderField) string {
		switch v := m.Headers[f].Value().(type) {
		case string:
			return v
		case dbus.ObjectPath:
			return string(v)
		}
		return ""
	}
	member, object := word(dbus.FieldMember), word(dbus.FieldPath)
	switch word(dbus.FieldInterface) {
	case manager:
		return s.manage(member, m.Body)
	case "org.freedesktop.DBus":
		return nil, nil, "" // AddMatch, Hello: nobody needs them here
	case "org.freedesktop.DBus.Properties":
		if member == "Get" && object == string(root) {
			return []any{dbus.MakeVariant("252-stand-in")}, nil, ""
		}
		if member == "GetAll" && len(m.Body) == 1 {
			return s.properties(unescape(path.Base(object)), m.Body[0].(string))
		}
	}
	return nil, nil, unknownMethod
}

// manage answers the manager's own calls.
func (s *Server) manage(member string, args []any) (body []any, after func(), failure string) {
	switch member {
	case "StartUnit", "StopUnit", "RestartUnit", "TryRestartUnit", "ReloadUnit":
		unit := args[0].(string)
		s.note(member + " " + unit)
		s.mu.Lock()
		_, known := s.units[unit]
		s.mu.Unlock()
		if !known {
			return nil, nil, noSuchUnit
		}
		verb := strings.ToLower(strings.TrimSuffix(member, "Unit"))
		if verb == "tryrestart" {
			verb = "try-restart"
		}
		return s.job(verb, unit, nil)
	case "StartTransientUnit":
		unit := args[0].(string)
		s.note(member + " " + unit)
		s.mu.Lock()
		_, known := s.units[unit]
		s.mu.Unlock()
		if known {
			return nil, nil, unitExists
		}
		properties := make(map[string]any)
		for _, p := range args[2].([][]any) {
			properties[p[0].(string)] = p[1].(dbus.Variant).Value()
		}
		s.Put(unit, map[string]any{"Transient": true})
		return s.job("transient", unit, properties)
	case "Reload":
		s.note("Reload")
		return nil, nil, ""
	case "EnableUnitFiles", "DisableUnitFiles":
		units := args[0].([]string)
		s.note(member + " " + strings.Join(units, " "))
		tell, body := s.Disable, []any{[]change{}}
		if member == "EnableUnitFiles" {
			tell, body = s.Enable, []any{true, []change{}}
		}
		if tell != nil {
			tell(units)
		}
		return body, nil, ""
	case "ResetFailedUnit", "Subscribe", "Unsubscribe":
		return nil, nil, ""
	case "ListUnitsByPatterns":
		return []any{s.list(args[1].([]string))}, nil, ""
	}
	return nil, nil, unknownMethod
}

// A change is one link that enabling made.
type change struct{ Type, Link, Target string }

// A listed is a unit of a list (ListUnits of org.freedesktop.systemd1(5)).
type listed struct {
	Name, Description, Load, Active, Sub, Follows string
	Path                                          dbus.ObjectPath
	JobID                                         uint32
	JobType                                       string
	JobPath                                       dbus.ObjectPath
}

func (s *Server) list(patterns []string) []listed {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []listed{}
	for _, name := range slices.Sorted(maps.Keys(s.units)) {
		if !slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, name); return ok }) {
			continue
		}
		all = append(all, listed{Name: name, Load: "loaded", Active: fmt.Sprint(s.units[name]["ActiveState"]), Path: root, JobPath: root})
	}
	return all
}

// job answers with a job, whose end follows.
func (s *Server) job(verb, unit string, properties map[string]any) ([]any, func(), string) {
	s.mu.Lock()
	s.jobs++
	id := s.jobs
	s.mu.Unlock()
	at := dbus.ObjectPath(string(root) + "/job/" + strconv.Itoa(int(id)))
	return []any{at}, func() {
		result := "done"
		if s.Job != nil {
			result = s.Job(verb, unit, properties)
		}
		if state := map[string]string{"start": "active", "restart": "active", "transient": "active", "stop": "inactive"}[verb]; state != "" && result == "done" {
			s.mu.Lock()
			if u := s.units[unit]; u != nil {
				u["ActiveState"] = state
			}
			// A command that has ended well is forgotten (CollectMode=).
			if _, command := properties["ExecStart"]; command {
				delete(s.units, unit)
			}
			s.mu.Unlock()
		}
		s.emit("JobRemoved", id, at, unit, result)
	}, ""
}

// properties gives those of a unit. systemd knows every name that it is asked for,
// and calls a unit without a file not-found.
func (s *Server) properties(unit, _ string) ([]any, func(), string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.units[unit]
	if known == nil {
		known = map[string]any{"Id": unit, "LoadState": "not-found", "ActiveState": "inactive"}
	}
	all := make(map[string]dbus.Variant, len(known))
	for k, v := range known {
		all[k] = dbus.MakeVariant(v)
	}
	return []any{all}, nil, ""
}

func (s *Server) note(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
}

// unescape undoes how an object path writes a unit's name: "_2e" is a dot
// (sd_bus_path_encode(3)).
func unescape(label string) string {
	var name strings.Builder
	for i := 0; i < len(label); i++ {
		if label[i] == '_' && i+2 < len(label) {
			if c, err := strconv.ParseUint(label[i+1:i+3], 16, 8); err == nil {
				name.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		name.WriteByte(label[i])
	}
	return name.String()
}
