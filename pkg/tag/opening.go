// Package tag makes things workloads that sallyport does not start itself: it
// writes the drop-ins of units, the flags of containers, and keeps what the `tag`
// commands said of cgroups and containers.
package tag

import (
	"fmt"
	"slices"
	"strings"
)

// An Opening is one part of the hardening of a tagged unit that --allow leaves
// out.
type Opening string

// The openings.
const (
	// Namespaces lets it make namespaces: sandboxes of browsers, bubblewrap.
	Namespaces Opening = "namespaces"
	// Capabilities leaves it those that its unit gives, and the host's user
	// namespace, in which they mean something.
	Capabilities Opening = "capabilities"
	// Privileges lets it gain some by setuid programs (sudo, su).
	Privileges Opening = "privileges"
	// Families leaves it socket families beside unix, internet and netlink.
	Families Opening = "families"
	// Cgroups lets it write to the cgroup file system.
	Cgroups Opening = "cgroups"
	// Sockets leaves it those of resolvers, buses, container engines and agents.
	Sockets Opening = "sockets"
	// Syscalls leaves it debugging, io_uring and request_key(2).
	Syscalls Opening = "syscalls"
	// Users leaves it in the host's user namespace: files of other users show
	// their owners.
	Users Opening = "users"
)

// Openings are all, in the order in which they are listed.
func Openings() []Opening {
	return []Opening{Namespaces, Capabilities, Privileges, Families, Cgroups, Sockets, Syscalls, Users}
}

// ParseOpenings reads a list such as "namespaces,sockets". An unknown name is an
// error that lists the known ones.
func ParseOpenings(list []string) ([]Opening, error) {
	var out []Opening
	for _, l := range list {
		for name := range strings.SplitSeq(l, ",") {
			o := Opening(strings.TrimSpace(name))
			if o == "" {
				continue
			}
			if !slices.Contains(Openings(), o) {
				return nil, fmt.Errorf("%q cannot be allowed: it is none of %s", name, joinOpenings(Openings()))
			}
			if !slices.Contains(out, o) {
				out = append(out, o)
			}
		}
	}
	slices.SortFunc(out, func(a, b Opening) int { return slices.Index(Openings(), a) - slices.Index(Openings(), b) })
	return out, nil
}

func joinOpenings(list []Opening) string {
	names := make([]string, len(list))
	for i, o := range list {
		names[i] = string(o)
	}
	return strings.Join(names, ",")
}
