package bypass

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"sallyport/test/outside"
)

// Locks say which of both locks are in force.
type locks string

const (
	both      locks = "both"
	guard     locks = "guard"     // BPF detached by hand
	bpf       locks = "bpf"       // the table flushed
	none      locks = "none"      // neither: what the attacks are measured against
	redirects locks = "redirects" // BPF without its egress program: what that one is for
	nft       locks = "nft"       // nft redirect mode, which has no BPF at all
)

// egressSeesSYNACKs: before Linux 6.5 a SYN-ACK does not pass cgroup egress, so that
// BPF alone lets a tagged listener be found. It carries no data.
var egressSeesSYNACKs = sync.OnceValue(func() bool {
	var major, minor int
	_, err := fmt.Sscanf(kernelRelease(), "%d.%d", &major, &minor)
	return err != nil || major > 6 || major == 6 && minor >= 5
})

// pins finds our pinned links.
func (h *host) pins(pattern string) []string {
	paths, _ := filepath.Glob(h.path("/sys/fs/bpf/sallyport/*/*/links/" + pattern))
	return paths
}

// detach detaches our links by hand, found by their pins.
func (h *host) detach(pattern string) {
	h.t.Helper()
	paths := h.pins(pattern)
	if len(paths) == 0 {
		h.t.Fatalf("no pinned link %s", pattern)
	}
	for _, path := range paths {
		l, err := link.LoadPinnedLink(path, nil)
		if err == nil {
			err = l.Detach()
			l.Close()
		}
		if err != nil {
			h.t.Fatalf("detach %s: %v", filepath.Base(path), err)
		}
	}
}

// flush removes every table of the host, as another program may.
func (h *host) flush() {
	h.t.Helper()
	h.here(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	})
}

// tabled reports whether our table is there.
func (h *host) tabled() (found bool) {
	h.here(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		for _, t := range tables {
			found = found || strings.HasPrefix(t.Name, h.table())
		}
		return err
	})
	return found
}

// only stops the keeper, so that nothing is repaired, and leaves the locks named
// in force. again gives both back.
func (h *host) only(l locks, d *daemon) (again func()) {
	h.t.Helper()
	if l == both || l == nft {
		return func() {}
	}
	stop(d.pid)
	if l != guard {
		h.flush()
	}
	switch l {
	case guard, none:
		h.detach("*")
	case redirects:
		h.detach("*-egress")
	}
	return func() {
		h.t.Helper()
		unix.Kill(d.pid, unix.SIGCONT)
		h.waitLocks(d)
	}
}

// stop stops a process and waits until each of its threads stands: one that is in
// the kernel goes on for a while, and could repair what is taken away now.
func stop(pid int) {
	unix.Kill(pid, unix.SIGSTOP)
	within(patient(30*time.Second), func() bool { return outside.Stands(pid) })
}

// waitLocks waits until both locks are back and give no problem any more.
func (h *host) waitLocks(d *daemon) {
	h.t.Helper()
	var s statusReport
	if !within(time.Minute, func() bool {
		s = h.status()
		return h.tabled() && s.Ready && s.EnforcementActive && len(s.Problems) == 0
	}) {
		h.t.Fatalf("the locks are not back: %+v: %s", s, d)
	}
}
