package protocol

import "net/netip"

// Origin asks the keeper where a connection or datagram that the guard
// redirected wanted to go, and who made it. Where BPF captures, the worker reads
// that by itself.
const Origin = "origin"

// OriginArgs is the argument of Origin.
type OriginArgs struct {
	// Netns is the cookie of the network namespace of our socket.
	Netns uint64 `json:"netns"`
	// UDP says that it is a datagram to the resolver and no connection.
	UDP bool `json:"udp"`
	// Peer is the other end as our socket sees it.
	Peer netip.AddrPort `json:"peer"`
}

// OriginResult is the result of Origin.
type OriginResult struct {
	// Found is false where nothing was redirected, or the client's socket is gone
	// or belongs to nobody whom we guard: the connection must be closed.
	Found bool `json:"found"`
	// Why is a word for the log where it was not found.
	Why string `json:"why,omitempty"`
	// Socket is the cookie of the client's socket.
	Socket uint64         `json:"socket"`
	Src    netip.AddrPort `json:"src"`
	Dst    netip.AddrPort `json:"dst"`
	Cgroup uint64         `json:"cgroup"`
	UID    uint32         `json:"uid"`
}
