package origin

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNoFlow is returned for a connection or datagram that no tagged cgroup made,
// or whose origin was lost. The caller closes it: there is nothing to judge.
var ErrNoFlow = errors.New("origin: no flow is recorded")

// AskerAge is how old the kernel's note of a DNS client may be. The kernel renews
// it with each datagram; an older one may speak of a socket that has given its
// port back, so it is not believed. A resolver that is further behind than this
// lets its clients ask again.
const AskerAge = 10 * time.Second

// A Reader looks flows up. It may be used by several goroutines at once.
type Reader struct {
	accepted, askers *os.File
}

// NewReader makes a Reader of the descriptors that datapath.AcceptedMap and
// datapath.AskerMap gave. The files stay the caller's; they must stay open.
func NewReader(accepted, askers *os.File) *Reader {
	return &Reader{accepted: accepted, askers: askers}
}

// Flow gives the origin of an accepted connection. It returns ErrNoFlow where the
// kernel recorded none, which means: close it.
func (r *Reader) Flow(conn syscall.Conn) (Flow, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Flow{}, fmt.Errorf("origin: descriptor of the connection: %w", err)
	}
	var value record
	var lookupErr error
	err = raw.Control(func(fd uintptr) {
		key := int32(fd)
		lookupErr = lookup(r.accepted, unsafe.Pointer(&key), unsafe.Pointer(&value))
	})
	if err != nil {
		return Flow{}, fmt.Errorf("origin: descriptor of the connection: %w", err)
	}
	if lookupErr != nil {
		return Flow{}, lookupErr
	}
	return value.flow(), nil
}

// Asker gives who sent a DNS datagram from this address in the network namespace
// with this cookie, and which server it was meant for (Flow.Dst). It returns
// ErrNoFlow where the kernel has no note, or one older than AskerAge.
func (r *Reader) Asker(netns uint64, src netip.AddrPort) (Flow, error) {
	key := askerKey{netns: netns, src: src.Addr().As16(), port: src.Port()}
	var value record
	if err := lookup(r.askers, unsafe.Pointer(&key), unsafe.Pointer(&value)); err != nil {
		return Flow{}, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return Flow{}, fmt.Errorf("origin: clock: %w", err)
	}
	if age := time.Duration(now.Nano() - int64(value.opened)); age > AskerAge {
		return Flow{}, ErrNoFlow
	}
	return value.flow(), nil
}

// record is struct sp_flow of bpf/types.h. Package datapath tests that both agree.
type record struct {
	cookie, cgroup, workload, netns, opened uint64
	src, dst                                [16]byte
	sport, dport                            uint16
	protocol                                uint16
	kind, progress                          uint8
	pid, uid, rule, srtt                    uint32
	sent, received                          uint64
	segsOut, segsIn, retrans, _             uint32
}

// askerKey is struct sp_asker_key.
type askerKey struct {
	netns uint64
	src   [16]byte
	port  uint16
	_     [6]byte
}

func (v *record) flow() Flow {
	return Flow{
		ID:       v.cookie,
		Dst:      netip.AddrPortFrom(netip.AddrFrom16(v.dst).Unmap(), v.dport),
		Src:      netip.AddrPortFrom(netip.AddrFrom16(v.src).Unmap(), v.sport),
		Cgroup:   v.cgroup,
		Workload: v.workload,
		Netns:    v.netns,
		PID:      v.pid,
		UID:      v.uid,
	}
}

// lookup is BPF_MAP_LOOKUP_ELEM (bpf(2)). It is written here because the worker
// must not link a BPF loader, and because a look-up through a descriptor that the
// keeper opened is all that it may do.
func lookup(m *os.File, key, value unsafe.Pointer) error {
	attr := struct {
		mapFD uint32
		_     uint32
		key   unsafe.Pointer // 64 bits on both targets, as the kernel's __aligned_u64
		value unsafe.Pointer
		flags uint64
	}{mapFD: uint32(m.Fd()), key: key, value: value}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_LOOKUP_ELEM, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(m)
	switch errno {
	case 0:
		return nil
	case unix.ENOENT:
		return ErrNoFlow
	default:
		return fmt.Errorf("origin: look-up in a kernel map: %w", errno)
	}
}
