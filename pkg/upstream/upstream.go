// Package upstream opens, verifies and keeps the connections to where a
// workload wanted to go. Who calls it has decided already: it is given the
// addresses that may be dialled and the name that must be verified, and never
// resolves, widens or skips anything itself.
package upstream

import (
	"net/netip"
	"time"
)

// A Scheme is what is spoken on top of TCP.
type Scheme uint8

// The schemes. The zero value is the verified one.
const (
	TLS Scheme = iota
	Clear
)

// A Key says which connections may stand in for each other: same workload,
// same scheme, same name and port, same verified name. Connections of two
// workloads are never shared, because an upstream may tie credentials to one
// (NTLM) and because the audit attributes each connection to one workload.
type Key struct {
	Workload string
	Scheme   Scheme
	// Host is the canonical name, or the IP address as text.
	Host string
	Port uint16
	// Name is what TLS verifies: a DNS name or an IP address as text. Empty
	// for Clear.
	Name string
	// ALPN lists the protocols to offer, the preferred one first and with
	// commas between, such as "h2,http/1.1"; "" offers none. It is what the
	// workload's client offered, so that the upstream chooses as it would have
	// chosen without us.
	ALPN string
	// Proxy is by whom the connection is opened, nil: directly. With one, the
	// addresses of a Route are the proxy's own.
	Proxy *Proxy
	// Client is shown to an upstream that asks for a certificate, nil for none.
	Client *ClientCertificate
}

// A Codec is what the user of a connection may keep with it where the codec
// reads on its own, as one of HTTP/2 does. The pool then never reads from the
// parked connection itself.
type Codec interface {
	// Usable reports whether the connection takes further exchanges.
	Usable() bool
	// Close ends the codec and closes the Conn that it was made for.
	Close() error
}

// A Route is where a new connection may go.
type Route struct {
	// Addrs are the permitted addresses, at least one; each is tried.
	Addrs []netip.Addr
	// Own is the address that the workload dialled. It is tried first if it is
	// among Addrs and ignored if it is not: a foreign address is never dialled.
	Own netip.Addr
	// Timeout bounds connecting, TLS included; 0 means Options.ConnectTimeout.
	Timeout time.Duration
}

// Permits reports whether a connection to a may serve the route: it goes to
// the workload's own address if that is permitted, else to any permitted one.
func (r Route) Permits(a netip.Addr) bool {
	own, found := false, false
	for _, b := range r.Addrs {
		own = own || b == r.Own
		found = found || b == a
	}
	if own {
		return a == r.Own
	}
	return found
}

// A Resource is one bounded thing and how full it is.
type Resource struct {
	Name              string
	Entries, Capacity int
}
