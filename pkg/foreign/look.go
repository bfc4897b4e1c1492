package foreign

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/netns"
	"sallyport/pkg/workload"
)

// pidfdThread is PIDFD_THREAD of linux/pidfd.h (6.9).
const pidfdThread = unix.O_EXCL

// A look is one look at all of a share. It may take several sweeps.
type look struct {
	s      *Sweeper
	share  *share
	tables *tables
	errs   []error
	// yield waits for the next turn; until is the end of this one.
	yield          func(struct{}) bool
	until          time.Time
	spent, checked int
	stopped, over  bool

	stubborn map[stubborn]struct{}
	// unexecuted are processes that have not executed yet.
	unexecuted map[int]struct{}
	// holder is the process that is being looked at.
	holder *holder
	// ended says that a process or a descriptor was not there any more when it was
	// looked at.
	ended bool
	// holders are all that were.
	holders []*holder
	// later are sockets of which no descriptor could be had: they are looked up all
	// together, since that reads every socket of the namespace.
	later []unresolved
	// queues are the unix sockets whose queue was looked at, doubted those with
	// something in it that could not be.
	queues  map[uint32]struct{}
	doubted []unresolved
	// nested is in how many queues we are; refused what was found in the innermost
	// that nothing can destroy. stuffing are the queues that were not looked into, and
	// since when; severed those to which nothing can come any more. peeks and received
	// count the queues that were, and the descriptors in them.
	nested          int
	refused         string
	stuffing        map[uint32]time.Time
	severed         map[uint32]struct{}
	peeks, received int
}

// stubborn is a process that was to be killed for a socket.
type stubborn struct {
	pid   int
	inode uint32
}

// unresolved is a socket that is known by its number, or by the name of its
// protocol, alone.
type unresolved struct {
	holder *holder
	entry  entry
	name   string
}

func newLook(sh *share) *look {
	l := &look{
		s: sh.s, share: sh, stubborn: make(map[stubborn]struct{}), unexecuted: make(map[int]struct{}), queues: make(map[uint32]struct{}),
		stuffing: make(map[uint32]time.Time), severed: make(map[uint32]struct{}),
	}
	if n := len(sh.s.spare); n > 0 {
		l.tables, sh.s.spare = sh.s.spare[n-1], sh.s.spare[:n-1]
	} else {
		l.tables = new(tables)
	}
	l.tables.large = l.tables.large[:0]
	return l
}

func (l *look) close() {
	for _, h := range l.holders {
		h.close()
	}
	l.s.spare = append(l.s.spare, l.tables)
}

// process looks at one process.
func (l *look) process(cg workload.Cgroup, pid int) error {
	l.holder = nil
	var errs []error
	before := l.spent
	err := l.tables.of(pid, l.step, func(e entry) {
		known, local := false, false
		if !e.ring {
			known, local = l.share.knows(e.inode)
		}
		if known && (!local || !l.parks(e)) {
			return
		}
		switch err := l.consider(cg, pid, e); {
		case gone(err):
			l.ended = true
		case err != nil:
			errs = append(errs, fmt.Errorf("descriptor %d: %w", e.fd, err))
		}
	})
	l.ended = l.ended || l.tables.lost
	switch {
	case gone(err), err == nil && l.spent == before: // who has no descriptors is ending, most likely
		l.ended = true
	case err != nil:
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// hold gives the process of a number.
func (l *look) hold(cg workload.Cgroup, pid int) (*holder, error) {
	if l.holder == nil || l.holder.pid != pid {
		h, err := openHolder(l.s.o.Tree, cg, pid)
		if err != nil {
			return nil, err
		}
		h.origin = h.originOf(l.share.what.Root.Path(), l.share.unexecuted, l.unexecuted)
		l.holder = h
		l.holders = append(l.holders, h)
	}
	return l.holder, nil
}

// consider judges a descriptor that is not known.
func (l *look) consider(cg workload.Cgroup, pid int, e entry) error {
	h, err := l.hold(cg, pid)
	if err != nil {
		return err
	}
	if e.ring {
		return l.ring(h, e, threadFile(h.pid, e.tid, "fdinfo/"+strconv.Itoa(e.fd)))
	}
	if l.share.closes.full() {
		// It puts other files in the place of its sockets, and their closing waits.
		l.doubt(h, e)
		return nil
	}
	fd, err := h.take(e)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// kernel.yama.ptrace_scope=3 or another security module forbids it, or the
		// table is that of one thread and the kernel is older than 6.9.
		l.later = append(l.later, unresolved{holder: h, entry: e})
		if l.parks(e) {
			l.doubt(h, e)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer l.share.closeTaken(fd)
	l.s.taken[fd] = struct{}{}
	return l.judge(h, e, fd)
}

// ring judges the sockets that an io_uring holds; info is its file in fdinfo.
func (l *look) ring(h *holder, e entry, info string) error {
	inodes, unnamed, err := registered(info)
	if err != nil {
		return err
	}
	for _, inode := range inodes {
		if known, _ := l.share.knows(inode); !known {
			l.later = append(l.later, unresolved{holder: h, entry: entry{tid: e.tid, fd: -1, inode: inode}})
		}
	}
	for _, name := range unnamed {
		l.later = append(l.later, unresolved{holder: h, entry: entry{tid: e.tid, fd: -1}, name: name})
	}
	return nil
}

// judge decides on a socket by a descriptor of it.
func (l *look) judge(h *holder, e entry, fd int) error {
	// Nothing is asked of what is no socket: its file system may be the workload's.
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if errors.Is(err, unix.ENOTSOCK) {
		return nil // the number is another file's by now
	} else if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	// What was taken is what is judged, whatever the number led to before.
	e.inode = uint32(st.Ino)
	switch domain {
	case unix.AF_UNIX:
		l.share.inOrder(e.inode, true)
		return l.queue(h, e, fd)
	case unix.AF_NETLINK, unix.AF_ALG:
		l.share.inOrder(e.inode, false)
		return nil
	case unix.AF_INET, unix.AF_INET6:
		return l.judgeInternet(h, e, fd)
	}
	return l.end(h, e, familyName(domain), netns.Socket{})
}

// judgeInternet decides on an internet socket.
func (l *look) judgeInternet(h *holder, e entry, fd int) error {
	if l.s.o.Decided != nil {
		ours, err := l.s.o.Decided(fd)
		if err != nil {
			return err
		}
		if ours {
			l.share.inOrder(e.inode, false)
			return nil
		}
	}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return err
	}
	kind := netns.ProtocolName(protocol)
	kindOf, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	switch {
	case kindOf == unix.SOCK_RAW:
		kind = "raw"
	case protocol == unix.IPPROTO_TCP, protocol == unix.IPPROTO_UDP, protocol == unix.IPPROTO_UDPLITE, protocol == unix.IPPROTO_MPTCP:
		return l.judgeConnection(h, e, fd, kind)
	}
	// Raw, ping and SCTP sockets send anywhere at any time, by calls that no hook
	// sees, and nothing takes that from them.
	s, err := netns.SocketOf(fd)
	if err != nil {
		s = netns.Socket{}
	}
	return l.end(h, e, kind, s)
}

// judgeConnection decides on a socket whose calls of connect and sendmsg are
// refused to tagged processes: only what is connected already leads anywhere.
func (l *look) judgeConnection(h *holder, e entry, fd int, kind string) error {
	s, err := netns.SocketOf(fd)
	if err != nil {
		return err
	}
	if s.Idle() {
		return nil // not remembered: whoever shares it outside may connect it
	}
	ns, err := netns.NamespaceOf(fd)
	if err != nil {
		return err
	}
	defer ns.Close()
	known, err := netns.Find(ns, s)
	if err != nil {
		// getpeername does not tell where a connection is still being made to, and
		// of several listeners of a port only one is found by its address.
		known, err = findByCookie(ns, s.Cookie)
	}
	if err == nil {
		s = known
	}
	if err == nil && l.s.o.Tagged(s.Cgroup) {
		if l.s.o.Decided == nil {
			l.share.inOrder(e.inode, false)
			return nil
		}
		if s.Listening() {
			return nil // older than the tag: what it accepts can send nothing
		}
	}
	if stays, err := l.stays(h, e, kind, s); stays {
		return err
	}
	h.describe() // while it lives: what it does about the loss is its own affair
	derr := netns.Destroy(ns, s)
	if !quiet(fd) {
		derr = errors.Join(derr, netns.Disconnect(fd))
	}
	if !quiet(fd) {
		return errors.Join(derr, l.end(h, e, kind, s))
	}
	l.tell(h, kind, s, Destroyed, nil)
	return nil
}

// quiet reports whether a socket leads nowhere any more. One that cannot be asked
// is taken for one that does.
func quiet(fd int) bool {
	s, err := netns.SocketOf(fd)
	return err == nil && s.Idle()
}

// findByCookie looks a socket up among all of its namespace.
func findByCookie(ns *os.File, cookie uint64) (netns.Socket, error) {
	all, err := netns.AllSockets(ns)
	if err != nil {
		return netns.Socket{}, err
	}
	for _, s := range all {
		if s.Cookie == cookie {
			return s, nil
		}
	}
	return netns.Socket{}, os.ErrNotExist
}

// end kills a process that holds what cannot be destroyed.
func (l *look) end(h *holder, e entry, kind string, s netns.Socket) error {
	if l.nested > 0 {
		// It is not the holder's yet, and may never be: the queue is emptied.
		l.refused = kind
		return nil
	}
	if l.claim(h, e) == parents {
		return nil
	}
	h.describe()
	err, outcome := h.kill(), Ended
	if gone(err) {
		return nil
	}
	if err != nil {
		outcome = Failed
		err = fmt.Errorf("process %d holds what leads out of the host, or what could not be looked at (%s), and could not be ended: %w", h.pid, kind, err)
	}
	// What takes its time to die, or does not, is told once.
	again := stubborn{h.pid, e.inode}
	if _, told := l.stubborn[again]; told {
		return err
	}
	if _, told := l.share.stubborn[again]; !told {
		l.tell(h, kind, s, outcome, err)
	}
	l.stubborn[again] = struct{}{}
	return err
}

// tell adds what was found. The holder has been described.
func (l *look) tell(h *holder, kind string, s netns.Socket, o Outcome, err error) {
	l.share.found = append(l.share.found, Found{
		Socket: s, Kind: kind, PID: uint32(h.pid), UID: h.uid, Exe: h.exe, Cgroup: h.cgroup.ID(), Outcome: o, Err: err,
	})
}

// familyName names the families that programs are likely to have.
func familyName(domain int) string {
	switch domain {
	case unix.AF_PACKET:
		return "packet"
	case unix.AF_VSOCK:
		return "vsock"
	case unix.AF_XDP:
		return "xdp"
	}
	return "family-" + strconv.Itoa(domain)
}
