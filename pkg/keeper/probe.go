package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/netns"
	"sallyport/pkg/workload"
)

// The addresses that the self-probe connects to. 192.0.0.8 is the IPv4 dummy
// address (RFC 7600 §4.8): no host has it and no router forwards it, so even
// with an open gate a probe reaches nobody.
var (
	probeCaptured = netip.MustParseAddrPort("192.0.0.8:1")
	probeBlocked  = netip.MustParseAddrPort("192.0.0.8:2")
	// probeLocal takes the place of the first where the guard captures: an address
	// that every host has a way to and nobody listens on.
	probeLocal = netip.MustParseAddrPort("127.0.0.8:1")
)

// probed are the addresses of the two connections of a self-probe.
type probed struct{ captured, blocked netip.AddrPort }

const (
	// probeInterval is how often enforcement is proven again.
	probeInterval = 10 * time.Second
	// probeAgain is how soon after a probe that failed.
	probeAgain = time.Second
	// probeTimeout bounds what one probe does.
	probeTimeout = 5 * time.Second
)

// A prober proves, with connections that a process below the tagged cgroup
// really makes, that both locks hold.
type prober struct {
	cgroup workload.Cgroup
	// target is where BPF rewrites the second connection to: a listener of ours
	// that the guard does not list. Whatever arrives there passed the guard.
	target *net.TCPListener
	// rejected reads the guard's counter.
	rejected func() (uint64, error)
	// to are the addresses of the two connections.
	to probed
	// silent says that nobody knows the pid of a connection, unguarded that the
	// second one is not refused by anybody.
	silent, unguarded bool
	// run is spawn, but in tests; turn has it run once at a time.
	run  probeRun
	turn probeTurn
}

// openProber makes the probe's cgroup and target and tells the kernel.
func openProber(g *gate, rejected func() (uint64, error)) (*prober, error) {
	cg, err := ensureCgroup(g.tree, g.instance.ProbeCgroup())
	if err != nil {
		return nil, fmt.Errorf("probe cgroup: %w", err)
	}
	config := net.ListenConfig{}
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("probe listener: %w", err)
	}
	p := &prober{cgroup: cg, target: l.(*net.TCPListener), rejected: rejected, to: probed{probeCaptured, probeBlocked}}
	if g.oneLock() {
		// No program rewrites the second one, and without a route to the first
		// there would be nothing to redirect.
		p.silent, p.to = true, probed{probeLocal, addrPort(l.Addr())}
	}
	p.unguarded = g.instance.Locks == LocksBPF
	p.run = p.spawn
	if err := mark(g.data, p.target); err != nil {
		l.Close()
		return nil, fmt.Errorf("bpf: probe listener: %w", err)
	}
	if err := g.setProbe(cg.ID(), addrPort(l.Addr())); err != nil {
		l.Close()
		return nil, err
	}
	return p, nil
}

func (p *prober) close() { p.target.Close() }

// probe runs one probe and returns nil only if both connections ended as they
// must. The error is a sentence for `status`.
func (p *prober) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	before, err := p.rejected()
	if err != nil {
		return fmt.Errorf("self-probe: read the guard's counter: %w", err)
	}
	pid, out, err := p.turn.take(ctx, p.run, nil)
	if err != nil {
		return fmt.Errorf("self-probe: %w", err)
	}
	captured, blocked, ok := strings.Cut(strings.TrimSpace(out), "\n")
	if !ok {
		return fmt.Errorf("self-probe: the probe process said %q", out)
	}
	return p.verdict(p.target, before, p.rejected, pid, captured, blocked)
}

// verdict is nil if both connections of a probe ended as they must: what the first
// printed, what the second, and that the guard has counted more than before and
// nothing arrived at the target.
func (p *prober) verdict(target *net.TCPListener, before uint64, rejected func() (uint64, error), pid int, captured, blocked string) error {
	if p.silent {
		pid = 0
	}
	if want := protocol.ProbeAnswer(p.to.captured, p.cgroup.ID(), uint32(pid)); captured != want {
		return fmt.Errorf("self-probe: the captured connection got %q, want %q", captured, want)
	}
	if p.unguarded {
		_, err := arrived(target)
		return err
	}
	if !strings.HasPrefix(blocked, "refused") {
		return fmt.Errorf("self-probe: the guard let a connection pass that it must reject: %s", blocked)
	}
	if passed, err := arrived(target); err != nil {
		return fmt.Errorf("self-probe: %w", err)
	} else if passed {
		return errors.New("self-probe: a connection that the guard must reject arrived")
	}
	after, err := rejected()
	if err != nil {
		return fmt.Errorf("self-probe: read the guard's counter: %w", err)
	}
	if after <= before {
		return errors.New("self-probe: the second connection was refused, but not by the guard")
	}
	return nil
}

// arrived reports whether anything arrived at a target. The kernel is asked: Go
// does not even look at a listener whose deadline has passed.
func arrived(target *net.TCPListener) (bool, error) {
	raw, err := target.SyscallConn()
	if err != nil {
		return false, err
	}
	waiting, perr := 0, error(unix.EINTR)
	if err := raw.Control(func(fd uintptr) {
		for errors.Is(perr, unix.EINTR) {
			waiting, perr = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		}
	}); err != nil {
		return false, err
	}
	if perr != nil || waiting == 0 {
		return false, perr
	}
	// Taken away, so that the next probe does not see it again. One that was
	// reset meanwhile is not there any more; it did arrive.
	if err := target.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return true, err
	}
	if c, err := target.Accept(); err == nil {
		c.Close()
	}
	return true, nil
}

// insideTimeout bounds each step of a probe inside another network namespace: one
// where nothing answers must not take the others' time.
const insideTimeout = probeTimeout / 4

// Probe is the probing process: it makes both connections and prints how each
// ended, a line each. With a number of network namespaces, whose descriptors it
// has, it does so inside each of them instead.
func Probe(stdout io.Writer, args []string) int {
	if len(args) != 3 {
		return 2
	}
	inside, err1 := strconv.Atoi(args[0])
	captured, err2 := netip.ParseAddrPort(args[1])
	blocked, err3 := netip.ParseAddrPort(args[2])
	if errors.Join(err1, err2, err3) != nil {
		return 2
	}
	to := probed{captured, blocked}
	if inside == 0 {
		fmt.Fprintln(stdout, to.first(probeTimeout))
		fmt.Fprintln(stdout, to.second(probeTimeout))
		return 0
	}
	lines := make([]string, 2*inside)
	var wg sync.WaitGroup
	for i := range inside {
		wg.Go(func() {
			ns := os.NewFile(uintptr(3+i), "netns")
			err := netns.Do(ns, func() error {
				lines[2*i], lines[2*i+1] = to.first(insideTimeout), to.second(insideTimeout)
				return nil
			})
			if err != nil {
				lines[2*i], lines[2*i+1] = err.Error(), err.Error()
			}
		})
	}
	wg.Wait()
	for _, line := range lines {
		fmt.Fprintln(stdout, strings.ReplaceAll(line, "\n", " "))
	}
	return 0
}

func (p probed) first(timeout time.Duration) string {
	c, err := probeDial(p.captured, timeout)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	line, err := bufio.NewReader(io.LimitReader(c, 256)).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

func (p probed) second(timeout time.Duration) string {
	c, err := probeDial(p.blocked, timeout)
	if err == nil {
		c.Close()
		return "connected"
	}
	// tcp reset by the guard; EPERM would be BPF, which passes this one.
	if errors.Is(err, unix.ECONNREFUSED) {
		return "refused"
	}
	return err.Error()
}

func probeDial(to netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	d.SetMultipathTCP(false)
	return d.Dial("tcp4", to.String())
}
