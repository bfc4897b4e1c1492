package confine

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An entry is one way to call the kernel: an architecture word of seccomp_data
// and its numbers. A number of 0 means that the architecture has no such call;
// what is number 0 on one of them is never looked for.
type entry struct {
	arch       uint32
	ignoreBit  uint32 // of the number: x32 calls are the native ones with a bit
	socket     uint32
	socketpair uint32
	socketcall uint32
	ioctl      uint32
	requestKey uint32
}

// x32Bit is __X32_SYSCALL_BIT.
const x32Bit = 0x40000000

// entries are all ways into a kernel of that architecture, from
// arch/*/entry/syscalls/*.tbl and include/uapi/asm-generic/unistd.h. nil means
// that the architecture is not known.
func entries(goarch string) []entry {
	switch goarch {
	case "amd64":
		return []entry{
			{arch: unix.AUDIT_ARCH_X86_64, ignoreBit: x32Bit, socket: 41, socketpair: 53, ioctl: 16, requestKey: 249},
			{arch: unix.AUDIT_ARCH_I386, socket: 359, socketpair: 360, socketcall: 102, ioctl: 54, requestKey: 287},
		}
	case "arm64":
		return []entry{
			{arch: unix.AUDIT_ARCH_AARCH64, socket: 198, socketpair: 199, ioctl: 29, requestKey: 218},
			{arch: unix.AUDIT_ARCH_ARM, socket: 281, socketpair: 288, socketcall: 102, ioctl: 54, requestKey: 310},
		}
	}
	return nil
}

// Numbers since 5.1 are the same everywhere.
const (
	ioUringSetup    = 425
	ioUringEnter    = 426
	ioUringRegister = 427
)

// Calls of socketcall(2) that make sockets.
const (
	callSocket     = 1
	callSocketpair = 8
)

// Offsets in struct seccomp_data. Arguments are 64 bits, little-endian on all
// architectures above; the kernel looks at the low half of those used here.
const (
	dataNumber = 0
	dataArch   = 4
	dataArg0   = 16
	dataArg1   = 24
)

// families are the socket domains that a workload may use, with the names of
// socket(2). AF_UNIX and AF_NETLINK lead to this host only; internet sockets meet
// the gate.
var families = [...]struct {
	domain uint32
	name   string
}{
	{unix.AF_UNIX, "AF_UNIX"}, {unix.AF_INET, "AF_INET"}, {unix.AF_INET6, "AF_INET6"}, {unix.AF_NETLINK, "AF_NETLINK"},
}

// Families gives the names of the socket domains that a workload may use, as
// RestrictAddressFamilies= takes them (systemd.exec(5)).
func Families() []string {
	names := make([]string, len(families))
	for i, f := range families {
		names[i] = f.name
	}
	return names
}

// What refused calls return. A family that is not there is EAFNOSUPPORT, which
// programs expect of a kernel built without it. io_uring is ENOSYS, as before
// 5.1, after which libuv, liburing's users and Go's own code use epoll.
// socketcall is ENOSYS, after which a libc that has the direct calls uses them:
// its arguments lie in memory, where a filter cannot look.
const (
	answerFamily  = unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)
	answerMissing = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	answerDenied  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
)

// filter is the program for the given ways into the kernel. It is a deny list:
// a command keeps every call but those by which it could make a socket that
// the gate does not see, have the kernel start a program outside (request_key(2):
// /sbin/request-key looks any name up in DNS, request-key.conf(5)), or type into
// the terminal that it shares with the shell outside (TIOCSTI, and TIOCLINUX's
// paste).
func filter(ways []entry) []unix.SockFilter {
	var p program
	p.load(dataArch)
	for _, w := range ways {
		p.ifEqual(w.arch, func() {
			p.load(dataNumber)
			if w.ignoreBit != 0 {
				p.and(^w.ignoreBit)
			}
			for _, n := range []uint32{ioUringSetup, ioUringEnter, ioUringRegister, w.requestKey} {
				p.ifEqual(n, func() { p.answer(answerMissing) })
			}
			for _, n := range []uint32{w.socket, w.socketpair} {
				p.ifEqual(n, func() {
					p.load(dataArg0)
					for _, f := range families {
						p.ifEqual(f.domain, func() { p.answer(unix.SECCOMP_RET_ALLOW) })
					}
					p.answer(answerFamily)
				})
			}
			if w.socketcall != 0 {
				p.ifEqual(w.socketcall, func() {
					p.load(dataArg0)
					p.ifEqual(callSocket, func() { p.answer(answerMissing) })
					p.ifEqual(callSocketpair, func() { p.answer(answerMissing) })
					p.answer(unix.SECCOMP_RET_ALLOW)
				})
			}
			p.ifEqual(w.ioctl, func() {
				p.load(dataArg1)
				p.ifEqual(unix.TIOCSTI, func() { p.answer(answerDenied) })
				p.ifEqual(unix.TIOCLINUX, func() { p.answer(answerDenied) })
				p.answer(unix.SECCOMP_RET_ALLOW)
			})
			p.answer(unix.SECCOMP_RET_ALLOW)
		})
	}
	// A way into the kernel that this table does not know could make any
	// socket.
	p.answer(unix.SECCOMP_RET_KILL_PROCESS)
	return p
}

// A program is classic BPF (linux/filter.h) being written.
type program []unix.SockFilter

func (p *program) add(code uint16, k uint32) {
	*p = append(*p, unix.SockFilter{Code: code, K: k})
}

// load puts the word at an offset of seccomp_data into the accumulator.
func (p *program) load(offset uint32) { p.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset) }

func (p *program) and(mask uint32) { p.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask) }

func (p *program) answer(value uint32) { p.add(unix.BPF_RET|unix.BPF_K, value) }

// ifEqual runs body where the accumulator is k, else goes on behind it. A body
// over 255 instructions cannot be jumped and is a mistake in this package.
func (p *program) ifEqual(k uint32, body func()) {
	at := len(*p)
	p.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, k)
	body()
	skip := len(*p) - at - 1
	if skip > 255 {
		panic(fmt.Sprintf("confine: %d instructions to jump", skip))
	}
	(*p)[at].Jf = uint8(skip)
}

func filterSupported() error {
	if entries(runtime.GOARCH) == nil {
		return fmt.Errorf("seccomp on %s: %w", runtime.GOARCH, ErrNotSupported)
	}
	action := uint32(unix.SECCOMP_RET_ERRNO)
	if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action))); e != 0 {
		return fmt.Errorf("seccomp filters (%w): %w", e, ErrNotSupported)
	}
	return nil
}

// installFilter binds the calling thread, and with it all that execve leaves.
func installFilter() error {
	code := filter(entries(runtime.GOARCH))
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(code)
	if e != 0 {
		return failed("seccomp", "", e)
	}
	return nil
}
