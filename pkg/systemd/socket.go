package systemd

import (
	"context"
	"fmt"
	"strings"
)

// A Listen is one address on which a socket unit listens for the service that it
// starts.
type Listen struct {
	// Kind is Stream, Datagram, SequentialPacket, Netlink, FIFO, Special and so on.
	Kind string
	// Address is as systemd gives it: a path, "@" and an abstract name, "[::]:80",
	// "vsock:…".
	Address string
}

// Unix reports whether the address is one of this host's file system or abstract
// names: nobody elsewhere reaches it.
func (l Listen) Unix() bool {
	switch l.Kind {
	case "Stream", "Datagram", "SequentialPacket":
		return strings.HasPrefix(l.Address, "/") || strings.HasPrefix(l.Address, "@")
	case "Netlink":
		return false
	}
	return true // a pipe, a queue, a device
}

func (l Listen) String() string { return "Listen" + l.Kind + "=" + l.Address }

// Listens gives the addresses of a socket unit.
func (m *Manager) Listens(ctx context.Context, socket string) ([]Listen, error) {
	p, err := m.conn.GetUnitTypePropertiesContext(ctx, socket, "Socket")
	if err != nil {
		return nil, unitError("unit", socket, err)
	}
	// a(ss)
	list, ok := p["Listen"].([][]any)
	if !ok {
		return nil, fmt.Errorf("unit %s: systemd does not say on what it listens", socket)
	}
	all := make([]Listen, 0, len(list))
	for _, l := range list {
		if len(l) != 2 {
			return nil, fmt.Errorf("unit %s: systemd says %v of what it listens on", socket, l)
		}
		all = append(all, Listen{Kind: text(l[0]), Address: text(l[1])})
	}
	return all, nil
}
