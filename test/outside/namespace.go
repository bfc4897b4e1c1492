package outside

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// NewNamespace makes a network namespace that lives as long as its descriptor, which
// the test's end closes.
func NewNamespace(t testing.TB) *os.File {
	t.Helper()
	var f *os.File
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		f, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatalf("new network namespace: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// In runs f on a thread inside the namespace and waits for it.
func In(ns *os.File, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return f()
	})
}

// onThread runs f on a thread that is not unlocked: it ends with the goroutine, and
// nobody else runs in its namespaces by accident. A test that f ends is not told of
// anything else.
func onThread(f func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		err = f()
	}()
	<-done
	return err
}

// OnEachCPU is In, once on each processor.
func OnEachCPU(ns *os.File, f func() error) error {
	return In(ns, func() error { return onEachCPU(f) })
}

// onEachCPU runs f once on each processor that the thread may run on, which stays on
// the last: it is one of onThread's.
func onEachCPU(f func() error) error {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return os.NewSyscallError("sched_getaffinity", err)
	}
	for cpu := range len(may) * 64 {
		if !may.IsSet(cpu) {
			continue
		}
		var one unix.CPUSet
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return os.NewSyscallError("sched_setaffinity", err)
		}
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}
