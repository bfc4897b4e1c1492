package tag

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sallyport/pkg/systemd"
)

// activation refuses a unit to which systemd hands sockets that lead to other
// hosts: they are made outside of the gate, which ends them for systemd as well
// (foreign_socket). Where the socket unit does not listen it is a warning.
func activation(ctx context.Context, m *systemd.Manager, u *systemd.Unit) (warnings []string, err error) {
	for _, name := range u.TriggeredBy {
		if systemd.KindOf(name) != "socket" {
			continue
		}
		socket, err := m.Unit(ctx, name)
		if errors.Is(err, systemd.ErrNoUnit) {
			continue
		}
		if err != nil {
			return nil, err
		}
		listens, err := m.Listens(ctx, name)
		if err != nil {
			return nil, err
		}
		why := handedIn(u.Name, name, listens)
		if why != "" && socket.Active() {
			return nil, fmt.Errorf("unit %s: %s", u.Name, why)
		}
		if why != "" {
			warnings = append(warnings, why+"; it does not listen at the moment")
		}
	}
	return warnings, nil
}

// handedIn says what is wrong with the sockets of a unit, "" if nothing is.
func handedIn(unit, socket string, listens []systemd.Listen) string {
	var outside []string
	for _, l := range slices.DeleteFunc(slices.Clone(listens), systemd.Listen.Unix) {
		outside = append(outside, l.String())
	}
	if len(outside) == 0 {
		return ""
	}
	return fmt.Sprintf("%s hands it sockets that were made outside of the gate (%s), which the gate ends: systemctl disable --now %s, have %s open its port itself, and name that in `listen` of its workload", socket, strings.Join(outside, ", "), socket, unit)
}
