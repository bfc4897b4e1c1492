package foreign

import (
	"os"
	"strconv"
	"strings"
)

// ringTarget is what /proc/PID/fd shows of an io_uring.
const ringTarget = "anon_inode:[io_uring]"

// registered lists the sockets that an io_uring keeps without a descriptor
// (IORING_REGISTER_FILES). Newer kernels name them as /proc/PID/fd does; older ones
// give the name of the protocol alone, and those are unnamed. The kernel leaves
// the list out while the ring is busy: the next look sees it.
func registered(fdinfo string) (inodes []uint32, unnamed []string, err error) {
	data, err := os.ReadFile(fdinfo)
	if err != nil {
		return nil, nil, err
	}
	inodes, unnamed = parseRing(string(data))
	return inodes, unnamed, nil
}

// parseRing reads what io_uring_show_fdinfo writes: "UserFiles:\tN", then lines
// "    0: NAME".
func parseRing(info string) (inodes []uint32, unnamed []string) {
	_, files, _ := strings.Cut(info, "UserFiles:")
	_, files, _ = strings.Cut(files, "\n")
	// Before Linux 6.10 a file's name is written as it is, line feeds and all: only
	// the last line of this name ends the list.
	if end := strings.LastIndex("\n"+files, "\nUserBufs:"); end >= 0 {
		files = files[:end]
	}
	for line := range strings.SplitSeq(files, "\n") {
		index, name, ok := strings.Cut(line, ": ")
		if _, err := strconv.Atoi(strings.TrimSpace(index)); err != nil || !ok {
			continue
		}
		if inode, ok := socketInode([]byte(name)); ok {
			inodes = append(inodes, inode)
		} else if leadsOut(name) {
			unnamed = append(unnamed, name)
		}
	}
	return inodes, unnamed
}

// leadsOut reports whether a protocol of that name (struct proto.name, also what
// the attribute system.sockprotoname of a socket's inode says) may carry data to
// other hosts. Files have other names: a path, a name with a slash or a dot. What
// a name looks like that is none of these, a file can have as well.
func leadsOut(name string) bool {
	switch name {
	case "TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6", "PING", "PINGv6",
		"MPTCP", "MPTCPv6", "SCTP", "SCTPv6", "SMC", "SMC6", "PACKET", "XDP", "AF_VSOCK", "TIPC", "RDS":
		return true
	}
	return false
}

// local reports whether sockets of a protocol lead to this host alone.
func local(name string) bool {
	switch name {
	case "UNIX", "UNIX-STREAM", "NETLINK", "ALG":
		return true
	}
	return false
}
