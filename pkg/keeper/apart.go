package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"sallyport/pkg/admin/socket"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
)

// maxWorkers bounds the workers that are connected: one that serves, the next one that
// waits, and those that drain. Beyond, a further one is refused: it comes again.
const maxWorkers = 16

// WorkerSocket is where a worker that is a service of its own finds the keeper of
// the daemon.
func WorkerSocket(runtimeDir string) string {
	return filepath.Join(runtimeDir, servicePrefix, "worker.sock")
}

// superviseApart serves workers that a service manager starts and that connect
// by themselves: one serves, others wait or drain.
func (k *Keeper) superviseApart(ctx context.Context) error {
	uid, _, err := workerIDs()
	if err != nil {
		return err
	}
	s, err := socket.Listen(socket.Options{Packet: true, Path: WorkerSocket(k.config.RuntimeDir), Owner: uid})
	if err != nil {
		return fmt.Errorf("workers: %w", err)
	}
	defer s.Remove()
	// A worker is stopped by us, after it gave up its listeners, not by the
	// context.
	alive, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	defer s.Listener.Close()
	candidates := make(chan *process)
	running.Go(func() { k.acceptWorkers(ctx, alive, s.Listener, uid, candidates, &running) })
	stop := context.AfterFunc(ctx, func() { s.Listener.Close() })
	defer stop()
	close(k.armed)
	lost := time.Now()
	for {
		without := time.NewTimer(time.Until(lost.Add(maxWithoutWorker)))
		if !k.gate.listening() {
			without.Stop()
		}
		select {
		case <-ctx.Done():
			without.Stop()
			return nil
		case <-without.C:
			k.gate.unlisten()
			k.note("no worker for 10 s: listeners closed")
			continue
		case w := <-candidates:
			without.Stop()
			served, err := k.employ(ctx, w)
			if ctx.Err() != nil {
				return nil
			}
			if served {
				lost = time.Now()
			}
			switch {
			case err != nil:
				k.log.Error("the worker ended", zap.Error(err))
				k.note("worker ended: " + err.Error())
			default:
				k.note("the worker gave up its listeners and drains")
			}
		}
	}
}

// employ has one worker serve until it gives that up, ends or hangs, or ctx
// ends. It reports whether the worker ever served.
func (k *Keeper) employ(ctx context.Context, w *process) (served bool, err error) {
	if w.hasLeft() {
		return false, errors.New("it went before it was needed")
	}
	if err := k.handOver(ctx, w); err != nil {
		w.kill()
		return false, fmt.Errorf("start worker: %w", err)
	}
	k.setWorker(w)
	defer k.setWorker(nil)
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var attending sync.WaitGroup
	defer attending.Wait()
	defer cancel()
	hangs := make(chan error, 1)
	attending.Go(func() { hangs <- k.attend(watching, w) })
	select {
	case <-w.left:
		return true, nil
	case <-w.done:
		return true, w.err
	case err := <-hangs:
		w.kill()
		return true, err
	case <-ctx.Done():
		k.yield(w)
		return true, nil
	}
}

// yield has a worker give up its listeners before we go, so that nobody whom it
// has accepted is left without the answers that only we have. What runs on it
// goes on without us.
func (k *Keeper) yield(w *process) {
	ctx, cancel := context.WithTimeout(context.Background(), protocol.YieldTimeout)
	defer cancel()
	if _, err := w.peer.Call(ctx, protocol.Yield, nil, nil, nil); err != nil {
		k.log.Warn("the worker did not give up its listeners", zap.Error(err))
	}
}

// acceptWorkers proves whoever connects and offers it for work.
func (k *Keeper) acceptWorkers(ctx, alive context.Context, l *net.UnixListener, uid int, candidates chan<- *process, running *sync.WaitGroup) {
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if err == nil {
				c.Close()
			}
			return
		}
		if err != nil {
			k.log.Warn("worker socket", zap.Error(err))
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		w, err := k.connected(c, uid)
		if err != nil {
			k.log.Warn("a worker was refused", zap.Error(err))
			refuseWorker(c, err)
			continue
		}
		if !k.addLiving(w) {
			refuseWorker(c, fmt.Errorf("%d workers are connected", maxWorkers))
			w.close()
			continue
		}
		running.Go(func() {
			defer k.removeLiving(w)
			w.run(alive)
		})
		running.Go(func() {
			select {
			case candidates <- w:
			case <-w.done:
			case <-ctx.Done():
			}
		})
	}
}

// refuseWorker tells a worker why it is not taken.
func refuseWorker(c *net.UnixConn, err error) {
	conn := wire.FromUnix(c)
	conn.SetLimits(workerLimits)
	conn.Send(&wire.Message{Method: protocol.Refused}, protocol.RefusedArgs{Reason: err.Error()})
	conn.Close()
}

// connected proves that the process at the other end is a worker: the kernel says
// that it runs our own executable as the worker's user, outside of what is
// tagged. So it speaks our protocol, too.
func (k *Keeper) connected(c *net.UnixConn, uid int) (*process, error) {
	peer, err := peerOf(c)
	if err != nil {
		return nil, err
	}
	if err := k.proveWorker(peer, uid); err != nil {
		peer.pidfd.Close()
		return nil, err
	}
	conn := wire.FromUnix(c)
	conn.SetLimits(workerLimits)
	w := newProcess(func() error { return peer.pidfd.Close() })
	w.pidfd, w.pid = peer.pidfd, peer.pid
	w.peer = wire.NewPeer(conn, k.handlersOf(w))
	w.close = func() { conn.Close(); peer.pidfd.Close() }
	return w, nil
}

func (k *Keeper) proveWorker(p *peer, uid int) error {
	if p.uid != uid {
		return fmt.Errorf("pid %d has uid %d: a worker has %d", p.pid, p.uid, uid)
	}
	proc := "/proc/" + strconv.Itoa(p.pid)
	cg, err := k.gate.tree.OfProcess(p.pid)
	if err != nil {
		return fmt.Errorf("pid %d: cgroup: %w", p.pid, err)
	}
	if k.gate.inside(cg.Path()) {
		return fmt.Errorf("pid %d runs in the tagged cgroup %s", p.pid, cg.Path())
	}
	same, err := sameFile(proc+"/exe", self)
	if err != nil {
		return fmt.Errorf("pid %d: executable: %w", p.pid, err)
	}
	if !same {
		return fmt.Errorf("pid %d runs another executable than the keeper: restart sallyport-keeper.service after an upgrade", p.pid)
	}
	// All of this was read by number; the descriptor says that it is still that
	// process's.
	if unix.PidfdSendSignal(int(p.pidfd.Fd()), 0, nil, 0) != nil {
		return fmt.Errorf("pid %d has ended", p.pid)
	}
	return nil
}

// A peer is the process at the other end of a socket, as the kernel noted it at
// connect(2).
type peer struct {
	pid, uid int
	pidfd    *os.File
}

func peerOf(c *net.UnixConn) (*peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	p := &peer{}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = p.read(int(fd)) }); err != nil {
		return nil, err
	}
	return p, serr
}

func (p *peer) read(fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return fmt.Errorf("peer credentials: %w", err)
	}
	if cred.Pid <= 0 {
		return errors.New("the peer is in another pid namespace")
	}
	p.pid, p.uid = int(cred.Pid), int(cred.Uid)
	// SO_PEERPIDFD is Linux 6.5. Before, another process could have the number by
	// now; it would have to be a worker itself to be taken for one.
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		pidfd, err = unix.PidfdOpen(p.pid, 0)
	}
	if err != nil {
		return fmt.Errorf("pid %d cannot be proven by a pidfd: %w", p.pid, err)
	}
	p.pidfd = os.NewFile(uintptr(pidfd), "pidfd")
	return nil
}
