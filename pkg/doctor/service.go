package doctor

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/admin"
	"sallyport/pkg/ca"
	"sallyport/pkg/netns"
)

// workerAccount is the user that the worker runs as.
const workerAccount = "sallyport"

// account makes sure that nothing but the worker has the worker's uid: it could
// signal the worker.
func (d *Doctor) account(context.Context) Result {
	u, err := user.Lookup(workerAccount)
	if err != nil {
		return warned("no user "+workerAccount+": a free uid is used", "sallyport install makes one")
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil || uid == 0 {
		return failed("user "+workerAccount+" has uid "+u.Uid, "give it one of its own, not root's")
	}
	others, err := strangersOf(uint32(uid))
	if err != nil {
		return failed(err.Error(), "report this")
	}
	if len(others) > 0 {
		return failed("uid "+u.Uid+" also runs "+strings.Join(others, ", "), "give those programs another user: who has the worker's uid can end it")
	}
	return ok("user " + workerAccount + ", uid " + u.Uid + ", runs nothing else")
}

// strangersOf lists processes of a uid that run another file than ours.
func strangersOf(uid uint32) (list []string, err error) {
	own, err := os.Stat(self)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		info, err := os.Stat("/proc/" + e.Name())
		if _, number := strconv.Atoi(e.Name()); number != nil || err != nil || info.Sys().(*syscall.Stat_t).Uid != uid {
			continue
		}
		exe, err := os.Stat("/proc/" + e.Name() + "/exe")
		if err != nil || os.SameFile(own, exe) {
			continue
		}
		path, _ := os.Readlink("/proc/" + e.Name() + "/exe")
		if filepath.Base(strings.TrimSuffix(path, " (deleted)")) == "sallyport" {
			continue // another version, which drains
		}
		if list = append(list, path+" (pid "+e.Name()+")"); len(list) == 8 {
			break
		}
	}
	return list, nil
}

// listeners looks whether the ports that the configuration names are free, or ours.
func (d *Doctor) listeners(ctx context.Context) []Result {
	if d.Daemon != nil {
		if _, err := d.Daemon(ctx); err == nil {
			return []Result{ok("held by the running service")}
		}
	}
	var list []Result
	loopback := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	try := func(what, key string, open func(netip.AddrPort) error, at netip.AddrPort) {
		err := open(at)
		if err == nil || errors.Is(err, unix.EADDRNOTAVAIL) {
			return
		}
		r := failed(fmt.Sprintf("%s %v: %v", what, at, err), "end what has the port (ss -lntup), or set another one: "+key)
		if _, err := os.Stat(filepath.Join(d.Config.RuntimeDir, "admin.sock")); err == nil {
			r.Remedy += "; a sallyport that does not answer may hold it"
		}
		list = append(list, r)
	}
	tcp := func(at netip.AddrPort) error {
		l, err := netns.ListenTCP(nil, at)
		if err == nil {
			l.Close()
		}
		return err
	}
	udp := func(at netip.AddrPort) error {
		l, err := netns.ListenUDP(nil, at)
		if err == nil {
			l.Close()
		}
		return err
	}
	for _, addr := range loopback {
		if p := d.Config.Listen.TCP; p != 0 {
			try("tcp", "listen.tcp", tcp, netip.AddrPortFrom(addr, p))
		}
		if p := d.Config.Listen.DNS; p != 0 {
			try("udp", "listen.dns", udp, netip.AddrPortFrom(addr, p))
		}
	}
	if at := d.Config.Metrics.Listen; at.IsValid() && at.Port() != 0 {
		try("metrics", "metrics.listen", tcp, at)
	}
	if len(list) == 0 {
		return []Result{ok(fmt.Sprintf("ports %d and %d are free", d.Config.Listen.TCP, d.Config.Listen.DNS))}
	}
	return list
}

// rootNear is how long before its end the root wants a person.
const rootNear = 90 * 24 * time.Hour

// authority looks at the root that workloads trust.
func (d *Doctor) authority(context.Context) Result {
	data, err := ca.ReadRootCertificate(d.Config.TLS.CADir)
	if errors.Is(err, os.ErrNotExist) {
		return skipped("none yet: the first start makes it in " + d.Config.TLS.CADir)
	}
	if err != nil {
		return failed(err.Error(), "restore it, or move it away and a new one is made; every workload has to be started again")
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return failed("no certificate in "+d.Config.TLS.CADir, "move it away and a new one is made")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return failed(err.Error(), "move it away and a new one is made")
	}
	return judgeRoot(c, time.Now())
}

func judgeRoot(c *x509.Certificate, now time.Time) Result {
	const rotate = "sallyport ca rotate, then start every workload again"
	left := c.NotAfter.Sub(now)
	switch end := c.NotAfter.UTC().Format(time.DateOnly); {
	case now.Before(c.NotBefore):
		return failed("not valid before "+c.NotBefore.UTC().Format(time.DateTime), "set the host's clock")
	case left <= 0:
		return failed("ended on "+end, rotate)
	case left < rootNear:
		return warned(fmt.Sprintf("ends on %s, in %d days", end, int(left/(24*time.Hour))), rotate)
	default:
		return ok("until " + end)
	}
}

// daemon asks the service how it is: readiness, each of its problems, and what a
// person must know of each workload (captured late, trust incomplete, not confined).
func (d *Doctor) daemon(ctx context.Context) []Result {
	if d.Daemon == nil {
		return []Result{skipped("not asked")}
	}
	s, err := d.Daemon(ctx)
	if errors.Is(err, admin.ErrNotRunning) {
		return []Result{skipped("not running: sallyport exec works without")}
	}
	if err != nil {
		return []Result{failed(err.Error(), "journalctl -u sallyport -u sallyport-keeper")}
	}
	list := []Result{ok(fmt.Sprintf("ready, %d workloads, %d open flows", len(s.Workloads), s.Flows))}
	if !s.Ready || !s.EnforcementActive {
		list[0] = failed("not ready: enforcement is not proven", "see the problems below; journalctl -u sallyport -u sallyport-keeper says more")
	}
	if s.Config.Error != "" {
		list = append(list, failed("the last reload changed nothing: "+s.Config.Error, "sallyport config check"))
	}
	for _, p := range s.Problems {
		what, remedy, found := strings.Cut(p, "; ")
		if !found {
			remedy = "sallyport tail --kind lifecycle says when it began"
		}
		list = append(list, failed(what, remedy))
	}
	for _, w := range s.Workloads {
		for note := range strings.SplitSeq(w.Note, "; ") {
			if note != "" {
				list = append(list, warned("workload "+w.Name+": "+note, noteRemedy(note)))
			}
		}
	}
	return list
}

// noteRemedy says what to do about a note of the status.
func noteRemedy(note string) string {
	switch {
	case strings.Contains(note, "captured late"):
		return "start it again: what it did before is not captured"
	case strings.Contains(note, "trust incomplete"):
		return "make the container anew with what sallyport container-args prints"
	case strings.Contains(note, "not confined"):
		return "start it with --user, or under sudo: root can always leave"
	}
	return "sallyport status tells more"
}

// dialable reports whether something listens on a unix socket.
func dialable(ctx context.Context, socket string) error {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", socket)
	if err == nil {
		c.Close()
	}
	return err
}
