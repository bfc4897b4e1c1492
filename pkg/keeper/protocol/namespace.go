package protocol

import "net/netip"

// What concerns workloads' network namespaces other than the worker's own.
const (
	// OpenNamespace brings the worker the listeners of one, or without descriptors
	// what is local to it now. CloseNamespace has them given up.
	OpenNamespace  = "open_namespace"
	CloseNamespace = "close_namespace"
	// DialDNS asks the keeper for a connection to the DNS server that a workload
	// asked, from inside its namespace.
	DialDNS = "dial_dns"
)

// NamespaceArgs is the argument of OpenNamespace and CloseNamespace; Roles names
// the descriptors in order.
type NamespaceArgs struct {
	// Cookie names the network namespace.
	Cookie uint64 `json:"cookie"`
	Roles  []Role `json:"roles"`
	// Local is what is local there: its own addresses and loopback.
	Local []netip.Prefix `json:"local"`
}

// DialDNSArgs is the argument of DialDNS.
type DialDNSArgs struct {
	// Cookie names the network namespace of the workload that asked.
	Cookie uint64 `json:"cookie"`
	// Network is "udp" or "tcp".
	Network string `json:"network"`
	// Server is where the question was meant to go; its port is 53.
	Server netip.AddrPort `json:"server"`
}
