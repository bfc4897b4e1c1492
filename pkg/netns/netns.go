// Package netns works in network namespaces other than the process's own: it
// enters one just long enough to do something there, opens listeners inside,
// names a namespace by its cookie, watches which addresses are local to it, and
// finds and destroys the sockets of a cgroup.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// ErrNotNamespace says that a file is not a handle of a network namespace.
var ErrNotNamespace = errors.New("not a network namespace")

// Current opens the network namespace of the calling thread. The namespace
// lives at least as long as the file.
func Current() (*os.File, error) {
	return Open("/proc/thread-self/ns/net")
}

// OpenPID opens the network namespace of a process. A pid can be reused: who
// needs certainty holds a pidfd over the call and asks it afterwards whether the
// process still lives.
func OpenPID(pid int) (*os.File, error) {
	ns, err := Open(handle(pid))
	if errors.Is(err, unix.ENOENT) {
		ns, err = Open(threadHandle(pid))
	}
	return ns, err
}

// Open opens a network namespace by path, for example /run/netns/NAME. What is
// no network namespace gives ErrNotNamespace: setns(2) on a handle of another
// kind would fail later and far from the mistake.
func Open(path string) (*os.File, error) {
	// O_NONBLOCK: a FIFO in the place of a namespace must not hang the caller.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	f := os.NewFile(uintptr(fd), path)
	if err := verify(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return f, nil
}

// verify asks the kernel for the kind of the namespace, ioctl_ns(2).
func verify(f *os.File) error {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return ErrNotNamespace
	}
	return nil
}

// Cookie gives the cookie of the calling thread's network namespace: a number
// that the kernel never uses twice before the next boot, the same that BPF
// programs get from bpf_get_netns_cookie. Linux 5.14.
func Cookie() (uint64, error) {
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("netns cookie: %w", os.NewSyscallError("socket", err))
	}
	defer unix.Close(s)
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("netns cookie: %w", os.NewSyscallError("getsockopt", err))
	}
	return cookie, nil
}

// CookieOf gives the cookie of another network namespace. It needs
// CAP_SYS_ADMIN in the owner of that namespace, as Do does.
func CookieOf(ns *os.File) (cookie uint64, err error) {
	err = Do(ns, func() error {
		cookie, err = Cookie()
		return err
	})
	return cookie, err
}

// Do runs fn in the network namespace ns and returns fn's error. A nil ns means
// the namespace of the calling thread.
//
// fn runs in a goroutine of its own, locked to a thread that enters ns for the
// time of the call. The thread comes back to where it was or dies with the
// goroutine: no other goroutine ever runs in ns by accident. Goroutines that fn
// starts do not run in ns. A panic in fn is raised again in the caller.
//
// It needs CAP_SYS_ADMIN in the user namespace that owns ns, setns(2).
func Do(ns *os.File, fn func() error) error {
	if ns == nil {
		return fn()
	}
	done := make(chan outcome, 1)
	go func() {
		var out outcome
		// Closed: only an fn that returned counts as done, so that
		// runtime.Goexit inside it (a test's FailNow) is not taken for success.
		out.err = errors.New("netns: the function did not return")
		defer func() {
			if p := recover(); p != nil {
				out.panicked, out.panicValue, out.stack = true, p, debug.Stack()
			}
			done <- out
		}()
		out.err = inside(ns, fn)
	}()
	out := <-done
	if out.panicked {
		panic(fmt.Sprintf("%v [in another network namespace]\n%s", out.panicValue, out.stack))
	}
	return out.err
}

// An outcome is how the goroutine of Do ended.
type outcome struct {
	err        error
	panicked   bool
	panicValue any
	stack      []byte
}

// inside moves the calling goroutine's thread into ns, runs fn and moves it
// back. Where it cannot move back the thread stays locked and ends together with
// the goroutine (runtime.LockOSThread).
func inside(ns *os.File, fn func() error) error {
	runtime.LockOSThread()
	home, err := Current()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", os.NewSyscallError("setns", err))
	}
	defer func() {
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return fn()
}
