// Package workload says what is tagged: which cgroup belongs to which unit,
// container or command, and under which name policy and audit know it.
package workload

// An Identity is everything that is known about who made a flow. It derives
// from the cgroup that made the socket; PID and Exe only inform.
type Identity struct {
	// Name is the workload's name in rules, audit and metrics: a safe label
	// (see Label).
	Name string `json:"name"`
	// Entry is the key of the configured workload that matched, "" if none.
	Entry string `json:"entry,omitempty"`
	// Cgroup is the path below the cgroup2 mount, with a leading slash.
	Cgroup string `json:"cgroup"`
	// Unit, Container and Command are what the cgroup belongs to. Command is the
	// whole command line. Only a container that an engine runs inside a unit has
	// two of them.
	Unit      string `json:"unit,omitempty"`
	Container string `json:"container,omitempty"`
	Command   string `json:"command,omitempty"`
	// User is the peer that asked `exec` for it.
	User string `json:"user,omitempty"`
	// Confined is false for a command that stayed root: it can always leave.
	Confined bool `json:"confined"`
}
