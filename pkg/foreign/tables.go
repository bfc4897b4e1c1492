package foreign

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tables reads descriptor tables from /proc. It has the buffers, so that a look
// allocates nothing.
type tables struct {
	entries [32 << 10]byte
	link    [128]byte
	info    [4096]byte
	threads []int
	apart   []int
	// large are threads whose table is large, as far as it was read in this look.
	// Processes can share one (clone(2) with CLONE_FILES alone), and reading it for
	// each would take as many times as long.
	large []int
	// lost says that a descriptor of the process was closed while its tables were read.
	lost bool
	// reading is the table that is being read.
	reading struct {
		pid, tid int
		// fdinfo is its directory of that name, -1 until somebody needs it.
		fdinfo int
	}
}

// largeTable is from how many descriptors on a table is compared with the large
// ones that were read before.
const largeTable = 256

// An entry is a descriptor that matters.
type entry struct {
	tid, fd int
	inode   uint32 // of a socket
	ring    bool   // an io_uring instead
}

// Of linux/kcmp.h: KCMP_VM and KCMP_FILES.
const (
	kcmpVM    = 1
	kcmpFiles = 2
)

// maxApart bounds the tables of one process that threads are compared with. A
// thread that shares none of them is looked at by itself.
const maxApart = 8

// of calls f for each socket and ring in any descriptor table of a process, and
// step with the number of descriptors that were read; it ends when that fails.
// Threads can have tables of their own (clone(2) without CLONE_FILES,
// unshare(CLONE_FILES)), and where the first thread has ended only those are left.
func (t *tables) of(pid int, step func(int) error, f func(entry)) error {
	if err := t.listThreads(pid); err != nil {
		return err
	}
	t.apart, t.lost = t.apart[:0], false
	var errs []error
	for _, tid := range t.threads {
		if len(t.threads) > 1 {
			if shared(t.apart, tid) {
				continue
			}
			if len(t.apart) < maxApart {
				t.apart = append(t.apart, tid)
			}
		}
		err := t.table(pid, tid, step, f)
		if errors.Is(err, errStopped) || errors.Is(err, errBeyond) {
			return err
		}
		if err != nil && !gone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// shared reports whether a thread has the table of one of others. Where the kernel
// does not tell (CONFIG_KCMP, a security module) each table is read.
func shared(others []int, tid int) bool {
	for _, other := range others {
		order, _, e := unix.Syscall6(unix.SYS_KCMP, uintptr(other), uintptr(tid), kcmpFiles, 0, 0, 0)
		if e == 0 && order == 0 {
			return true
		}
	}
	return false
}

// listThreads fills t.threads.
func (t *tables) listThreads(pid int) error {
	t.threads = t.threads[:0]
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return t.each(dir, func(name []byte) error {
		if tid, ok := number(name); ok {
			t.threads = append(t.threads, tid)
		}
		return nil
	})
}

// table reads one thread's table.
func (t *tables) table(pid, tid int, step func(int) error, f func(entry)) error {
	dir, err := unix.Open(threadFile(pid, tid, "fd"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	t.reading.pid, t.reading.tid, t.reading.fdinfo = pid, tid, -1
	defer func() {
		if t.reading.fdinfo >= 0 {
			_ = unix.Close(t.reading.fdinfo)
		}
	}()
	// Linux 6.2 tells how many there are; an older one when they have been counted.
	var st unix.Stat_t
	compared := false
	if err := unix.Fstat(dir, &st); err == nil && st.Size >= largeTable {
		if compared = true; t.readBefore(tid) {
			return nil
		}
	}
	n, start := 0, startOf(int(st.Size))
	from, to := start, math.MaxInt
	read := func(name []byte) error {
		fd, ok := number(name)
		if !ok || fd < from {
			return nil
		}
		if fd >= to {
			return errPassed
		}
		if err := step(1); err != nil {
			return err
		}
		if n++; n == largeTable && !compared && t.readBefore(tid) {
			return errReadBefore
		}
		// The name ends in a NUL: it lies in a struct linux_dirent64.
		n, _, e := unix.Syscall6(unix.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(unsafe.SliceData(name))), uintptr(unsafe.Pointer(&t.link[0])), uintptr(len(t.link)), 0, 0)
		if e != 0 {
			if gone(e) {
				t.lost = true
				return nil
			}
			return e
		}
		target := t.link[:n]
		if inode, ok := socketInode(target); ok {
			f(entry{tid: tid, fd: fd, inode: inode})
		} else if string(target) == ringTarget {
			f(entry{tid: tid, fd: fd, ring: true})
		}
		return nil
	}
	if start == 0 {
		return t.each(dir, read)
	}
	if err := t.eachFrom(dir, start, read); err != nil {
		return err
	}
	from, to = 0, start
	if err := t.eachFrom(dir, 0, read); !errors.Is(err, errPassed) {
		return err
	}
	return nil
}

// errPassed ends the reading of a table's first part.
var errPassed = errors.New("the second part was read before")

// startOf gives the number to begin with in a table of so many descriptors: half of the
// time not the first. A process that lives for less than it takes to read all of its
// table, and then has a child with the same, must not know what is read last.
func startOf(descriptors int) int {
	if descriptors < 2 || rand.IntN(2) == 0 {
		return 0
	}
	return rand.IntN(descriptors)
}

// eachFrom is each for the numbers from one on: proc(5) has fd N at N + 2, behind the
// directory itself and its parent.
func (t *tables) eachFrom(dir, number int, f func(name []byte) error) error {
	if _, err := unix.Seek(dir, int64(number)+2, unix.SEEK_SET); err != nil {
		return err
	}
	return t.each(dir, f)
}

// errReadBefore ends the reading of a table that was read by another thread's name.
var errReadBefore = fmt.Errorf("the table was read before: %w", os.ErrNotExist)

// readBefore reports whether a large table is one of those that were read, and adds
// it to them if not.
func (t *tables) readBefore(tid int) bool {
	if shared(t.large, tid) {
		return true
	}
	t.large = append(t.large, tid)
	return false
}

// each calls f with the name of each entry of a directory. f must not keep it.
func (t *tables) each(dir int, f func(name []byte) error) error {
	for {
		n, err := unix.Getdents(dir, t.entries[:])
		if err != nil || n == 0 {
			return err
		}
		for rest := t.entries[:n]; len(rest) > 0; {
			d := (*unix.Dirent)(unsafe.Pointer(&rest[0]))
			name := rest[unsafe.Offsetof(d.Name):d.Reclen]
			rest = rest[d.Reclen:]
			if end := bytes.IndexByte(name, 0); end > 0 {
				if err := f(name[:end]); err != nil {
					return err
				}
			}
		}
	}
}

// socketInode reads "socket:[INODE]" (sockfs_dname).
func socketInode(target []byte) (uint32, bool) {
	const prefix = "socket:["
	if len(target) <= len(prefix) || string(target[:len(prefix)]) != prefix || target[len(target)-1] != ']' {
		return 0, false
	}
	n, ok := number(target[len(prefix) : len(target)-1])
	return uint32(n), ok
}

// number reads a decimal number without allocating.
func number(digits []byte) (int, bool) {
	n := 0
	for _, c := range digits {
		if c < '0' || c > '9' || n > 1<<40 {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, len(digits) > 0
}

// threadFile is a file of one thread in /proc.
func threadFile(pid, tid int, name string) string {
	return "/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(tid) + "/" + name
}
