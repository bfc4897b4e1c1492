package protocol

import (
	"net/netip"
	"time"
)

// Foreign is a socket that was found in a workload although nothing of ours decided
// on it, and what became of it.
type Foreign struct {
	Time time.Time `json:"time"`
	// Cgroup, PID, UID and Exe are of the process that held it.
	Cgroup uint64 `json:"cgroup"`
	PID    uint32 `json:"pid"`
	UID    uint32 `json:"uid"`
	Exe    string `json:"exe"`
	// Kind is "tcp", "udp", "packet", …
	Kind string `json:"kind"`
	// Flow is the socket's cookie, Dst what it was connected to; both empty where
	// there is none.
	Flow      uint64         `json:"flow"`
	Dst       netip.AddrPort `json:"dst"`
	Listening bool           `json:"listening"`
	// Maker is the path of the cgroup that made it, "" where it is not known;
	// Tagged says that this is a tagged one: then the socket is older than the tag.
	Maker  string `json:"maker"`
	Tagged bool   `json:"tagged"`
	// Outcome is a foreign.Outcome; Error says why it is "failed".
	Outcome string `json:"outcome"`
	Error   string `json:"error"`
}
