package workload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lookAgain is how long Watch trusts that no notice was lost. Kernels differ
// in whether removing a cgroup notifies who watches its files.
const lookAgain = time.Second

// Watch calls changed with the present state, and again each time when the
// cgroup with all below it becomes empty or populated. It returns nil when the
// cgroup is removed, and ctx's error when ctx ends.
func (c Cgroup) Watch(ctx context.Context, changed func(populated bool)) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch cgroup %s: %w", c.path, err)
	}
	// A non-blocking descriptor goes to the runtime's poller, so a deadline
	// can interrupt the read.
	notices := os.NewFile(uintptr(fd), "inotify")
	defer notices.Close()
	if _, err := unix.InotifyAddWatch(fd, c.Dir()+"/cgroup.events", unix.IN_MODIFY|unix.IN_DELETE_SELF); err != nil {
		return pathError("watch cgroup", c.path, err)
	}
	stop := context.AfterFunc(ctx, func() { notices.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	var last, told bool
	buf := make([]byte, 4096)
	for {
		populated, err := c.Populated()
		if errors.Is(err, ErrGone) {
			return nil
		}
		if err != nil {
			return err
		}
		if !told || populated != last {
			changed(populated)
			last, told = populated, true
		}
		if err := notices.SetReadDeadline(time.Now().Add(lookAgain)); err != nil {
			return fmt.Errorf("watch cgroup %s: %w", c.path, err)
		}
		// The deadline just set may have replaced the one of a ctx that
		// ended in between.
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := notices.Read(buf); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("watch cgroup %s: %w", c.path, err)
		}
	}
}
