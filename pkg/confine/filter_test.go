package confine

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func nativeArch() uint32 {
	if e := entries(runtime.GOARCH); e != nil {
		return e[0].arch
	}
	return 0
}

// A call is what seccomp_data shows of one.
type call struct {
	arch, nr   uint32
	arg0, arg1 uint64
}

// interpret runs the filter as the kernel does, for the instructions used.
func interpret(code []unix.SockFilter, c call) (uint32, error) {
	var data [64]byte
	binary.LittleEndian.PutUint32(data[0:], c.nr)
	binary.LittleEndian.PutUint32(data[4:], c.arch)
	binary.LittleEndian.PutUint64(data[16:], c.arg0)
	binary.LittleEndian.PutUint64(data[24:], c.arg1)
	var a uint32
	for pc := 0; pc < len(code); pc++ {
		switch i := code[pc]; i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = binary.LittleEndian.Uint32(data[i.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= i.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			if a == i.K {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		case unix.BPF_RET | unix.BPF_K:
			return i.K, nil
		default:
			return 0, fmt.Errorf("instruction %d: code %#x", pc, i.Code)
		}
	}
	return 0, fmt.Errorf("ran off the end")
}

func TestFilter(t *testing.T) {
	const allow = uint32(unix.SECCOMP_RET_ALLOW)
	high := uint64(1) << 32
	tests := []struct {
		goarch string
		call   call
		want   uint32
	}{
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 0}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 59}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 102}, allow}, // getuid, i386's socketcall
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 359, arg0: unix.AF_VSOCK}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 41, arg0: unix.AF_UNIX}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 41, arg0: unix.AF_INET}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 41, arg0: unix.AF_INET6}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 41, arg0: unix.AF_NETLINK}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 41, arg0: unix.AF_VSOCK}, answerFamily},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 41, arg0: high | unix.AF_INET}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 41, arg0: high | unix.AF_PACKET}, answerFamily},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 53, arg0: unix.AF_TIPC}, answerFamily},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 53, arg0: unix.AF_UNIX}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 425}, answerMissing},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 426}, answerMissing},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 427}, answerMissing},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 428}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: x32Bit | 41, arg0: unix.AF_PACKET}, answerFamily},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: x32Bit | 425}, answerMissing},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: x32Bit | 41, arg0: unix.AF_INET}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 16, arg1: unix.TIOCSTI}, answerDenied},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 16, arg1: high | unix.TIOCSTI}, answerDenied},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 16, arg1: unix.TIOCLINUX}, answerDenied},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 16, arg1: unix.TIOCGWINSZ}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 249}, answerMissing}, // request_key
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: x32Bit | 249}, answerMissing},
		{"amd64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 250}, allow}, // keyctl
		{"amd64", call{arch: unix.AUDIT_ARCH_I386, nr: 287}, answerMissing},
		{"amd64", call{arch: unix.AUDIT_ARCH_I386, nr: 249}, allow},
		{"arm64", call{arch: unix.AUDIT_ARCH_AARCH64, nr: 218}, answerMissing},
		{"arm64", call{arch: unix.AUDIT_ARCH_ARM, nr: 310}, answerMissing},
		{"amd64", call{arch: unix.AUDIT_ARCH_I386, nr: 359, arg0: unix.AF_PACKET}, answerFamily},
		{"amd64", call{arch: unix.AUDIT_ARCH_I386, nr: 360, arg0: unix.AF_TIPC}, answerFamily},
		{"amd64", call{arch: unix.AUDIT_ARCH_I386, nr: 359, arg0: unix.AF_INET6}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_I386, nr: 41, arg0: unix.AF_PACKET}, allow}, // dup there
		{"amd64", call{arch: unix.AUDIT_ARCH_I386, nr: 102, arg0: 1}, answerMissing},
		{"amd64", call{arch: unix.AUDIT_ARCH_I386, nr: 102, arg0: 8}, answerMissing},
		{"amd64", call{arch: unix.AUDIT_ARCH_I386, nr: 102, arg0: 3}, allow},
		{"amd64", call{arch: unix.AUDIT_ARCH_I386, nr: 425}, answerMissing},
		{"amd64", call{arch: unix.AUDIT_ARCH_I386, nr: 54, arg1: unix.TIOCSTI}, answerDenied},
		{"amd64", call{arch: unix.AUDIT_ARCH_AARCH64, nr: 63}, unix.SECCOMP_RET_KILL_PROCESS},
		{"arm64", call{arch: unix.AUDIT_ARCH_AARCH64, nr: 198, arg0: unix.AF_VSOCK}, answerFamily},
		{"arm64", call{arch: unix.AUDIT_ARCH_AARCH64, nr: 198, arg0: unix.AF_INET}, allow},
		{"arm64", call{arch: unix.AUDIT_ARCH_AARCH64, nr: 199, arg0: unix.AF_TIPC}, answerFamily},
		{"arm64", call{arch: unix.AUDIT_ARCH_AARCH64, nr: 425}, answerMissing},
		{"arm64", call{arch: unix.AUDIT_ARCH_AARCH64, nr: 29, arg1: unix.TIOCSTI}, answerDenied},
		{"arm64", call{arch: unix.AUDIT_ARCH_ARM, nr: 281, arg0: unix.AF_PACKET}, answerFamily},
		{"arm64", call{arch: unix.AUDIT_ARCH_ARM, nr: 288, arg0: unix.AF_TIPC}, answerFamily},
		{"arm64", call{arch: unix.AUDIT_ARCH_ARM, nr: 102, arg0: 1}, answerMissing},
		{"arm64", call{arch: unix.AUDIT_ARCH_X86_64, nr: 0}, unix.SECCOMP_RET_KILL_PROCESS},
	}
	for _, tt := range tests {
		got, err := interpret(filter(entries(tt.goarch)), tt.call)
		if err != nil {
			t.Fatal(err)
		}
		if got != tt.want {
			t.Errorf("%s %+v: %#x, want %#x", tt.goarch, tt.call, got, tt.want)
		}
	}
	if entries("riscv64") != nil {
		t.Error("an architecture without a table has entries")
	}
}

// TestNumbers compares the table with the constants of this architecture.
func TestNumbers(t *testing.T) {
	e := entries(runtime.GOARCH)
	if e == nil {
		t.Skipf("no table for %s", runtime.GOARCH)
	}
	if e[0].socket != unix.SYS_SOCKET || e[0].socketpair != unix.SYS_SOCKETPAIR || e[0].ioctl != unix.SYS_IOCTL || e[0].requestKey != unix.SYS_REQUEST_KEY || ioUringSetup != unix.SYS_IO_URING_SETUP {
		t.Errorf("%+v", e[0])
	}
}

// compatProgram is an ELF file that makes one call by int 0x80 and exits with
// the number of its error, 255 if there was none.
func compatProgram(nr, a1, a2 uint32) []byte {
	le := binary.LittleEndian
	code := []byte{0xb8}
	code = le.AppendUint32(code, nr) // mov eax, nr
	code = append(code, 0xbb)
	code = le.AppendUint32(code, a1) // mov ebx, a1
	code = append(code, 0xb9)
	code = le.AppendUint32(code, a2) // mov ecx, a2
	code = append(code,
		0x31, 0xd2, // xor edx, edx
		0xcd, 0x80, // int 0x80
		0xbf, 0xff, 0, 0, 0, // mov edi, 255
		0x85, 0xc0, // test eax, eax
		0x79, 0x04, // jns over the next two
		0xf7, 0xd8, // neg eax
		0x89, 0xc7, // mov edi, eax
		0xb8, 60, 0, 0, 0, // mov eax, exit
		0x0f, 0x05, // syscall
	)
	const base, headers = 0x400000, 64 + 56
	h := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	h = le.AppendUint16(h, 2)    // ET_EXEC
	h = le.AppendUint16(h, 0x3e) // x86-64
	h = le.AppendUint32(h, 1)
	h = le.AppendUint64(h, base+headers) // entry
	h = le.AppendUint64(h, 64)           // program headers
	h = le.AppendUint64(h, 0)
	h = le.AppendUint32(h, 0)
	for _, v := range []uint16{64, 56, 1, 64, 0, 0} {
		h = le.AppendUint16(h, v)
	}
	h = le.AppendUint32(h, 1) // PT_LOAD
	h = le.AppendUint32(h, 5) // read, execute
	for _, v := range []uint64{0, base, base, uint64(headers + len(code)), uint64(headers + len(code)), 0x1000} {
		h = le.AppendUint64(h, v)
	}
	return append(h, code...)
}

func BenchmarkFilter(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		filter(entries("amd64"))
	}
}
