package foreign

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sallyport/pkg/netns"
)

// resolve decides on the sockets of which no descriptor could be had, by what
// sock_diag tells of their numbers in every network namespace that one of their
// holders or we are in.
func (l *look) resolve() error {
	if len(l.later) == 0 {
		return nil
	}
	known, err := l.sockets()
	errs := []error{err}
	for _, u := range l.later {
		if u.name != "" {
			// Registered with an io_uring whose kernel does not say which it is: it
			// cannot be told from one of the workload's own.
			errs = append(errs, l.end(u.holder, u.entry, "registered "+u.name, netns.Socket{}))
			continue
		}
		if s, ok := known[u.entry.inode]; ok {
			errs = append(errs, l.judgeListed(u, s.Socket, s.ns))
			continue
		}
		errs = append(errs, l.judgeUnlisted(u))
	}
	return errors.Join(errs...)
}

// listed is a socket as sock_diag has it, and where.
type listed struct {
	netns.Socket
	ns *os.File
}

// A listing is what the network namespaces of holders and our own have, by number.
// It is kept for one sweep.
type listing struct {
	known      map[uint32]listed
	seen       map[uint64]bool
	namespaces []*os.File
}

// sockets lists what the namespaces of all holders and our own have.
func (l *look) sockets() (map[uint32]listed, error) {
	if l.s.listing == nil {
		l.s.listing = &listing{known: make(map[uint32]listed), seen: make(map[uint64]bool)}
	}
	var errs []error
	if ns, err := netns.Current(); err == nil {
		errs = append(errs, l.s.listing.add(ns))
	}
	for _, u := range l.later {
		if ns, err := netns.OpenPID(u.holder.pid); err == nil {
			errs = append(errs, l.s.listing.add(ns))
		}
	}
	return l.s.listing.known, errors.Join(errs...)
}

// add lists a namespace, which is the listing's from now on.
func (l *listing) add(ns *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil || l.seen[st.Ino] {
		ns.Close()
		return err
	}
	l.seen[st.Ino] = true
	l.namespaces = append(l.namespaces, ns)
	all, err := netns.AllSockets(ns)
	for _, s := range all {
		l.known[s.Inode] = listed{s, ns}
	}
	return err
}

func (s *Sweeper) forgetListing() {
	if s.listing == nil {
		return
	}
	for _, ns := range s.listing.namespaces {
		ns.Close()
	}
	s.listing = nil
}

// judgeListed decides on a socket that sock_diag knows.
func (l *look) judgeListed(u unresolved, s netns.Socket, ns *os.File) error {
	if l.s.o.Tagged(s.Cgroup) {
		l.share.inOrder(s.Inode, false)
		return nil
	}
	kind := netns.ProtocolName(int(s.Protocol))
	switch {
	case s.Protocol == unix.IPPROTO_RAW:
		return l.end(u.holder, u.entry, "raw", s)
	case s.Idle():
		return nil
	}
	if stays, err := l.stays(u.holder, u.entry, kind, s); stays {
		return err
	}
	u.holder.describe()
	if err := netns.Destroy(ns, s); err != nil {
		return errors.Join(err, l.end(u.holder, u.entry, kind, s))
	}
	l.tell(u.holder, kind, s, Destroyed, nil)
	return nil
}

// judgeUnlisted decides by the name of the protocol on a socket that sock_diag
// does not have: it never had an address, is of another family, or is in a network
// namespace of nobody.
func (l *look) judgeUnlisted(u unresolved) error {
	if u.entry.fd < 0 {
		return nil // registered with an io_uring, and without an address
	}
	name, err := protocolOf(u)
	if err != nil {
		if gone(err) {
			return nil
		}
		return fmt.Errorf("socket %d of process %d: %w", u.entry.inode, u.holder.pid, err)
	}
	switch name {
	case "TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "MPTCP", "MPTCPv6":
		return nil
	}
	if local(name) {
		l.share.inOrder(u.entry.inode, strings.HasPrefix(name, "UNIX"))
		return nil
	}
	return l.end(u.holder, u.entry, name, netns.Socket{})
}

// protocolOf reads the attribute system.sockprotoname of exactly that socket.
func protocolOf(u unresolved) (string, error) {
	path, err := unix.Open(threadFile(u.holder.pid, u.entry.tid, "fd/"+strconv.Itoa(u.entry.fd)), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(path)
	var st unix.Statx_t
	if err := unix.Statx(path, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return "", err
	}
	if uint32(st.Ino) != u.entry.inode {
		return "", os.ErrNotExist
	}
	var name [64]byte
	n, err := unix.Getxattr("/proc/self/fd/"+strconv.Itoa(path), "system.sockprotoname", name[:])
	if err != nil {
		return "", err
	}
	for n > 0 && name[n-1] == 0 {
		n--
	}
	return string(name[:n]), nil
}
