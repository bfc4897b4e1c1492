package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/keeper/unprivileged"
	"sallyport/pkg/keeper/wire"
)

// The arguments with which the binary starts itself. They are not for people:
// each expects descriptors or sockets that only the keeper can give.
const (
	// Internal is the first argument of each.
	Internal      = "internal"
	InternalWork  = "worker"
	InternalKeep  = "keeper"
	InternalProbe = "probe"
	InternalWatch = "watch"
	InternalStart = "launch"
	InternalHold  = "hold"
)

// self is the running binary, also after a new one was installed over it: both
// processes are always of one version.
const self = "/proc/self/exe"

// workerUser is the account of the worker where a package made one.
const workerUser = "sallyport"

// firstFreeUID begins the range from which a uid is taken on hosts without that
// account. systemd reserves 61184-65519 for dynamic users; we look at its end,
// and take only one that neither the user database nor a process has.
const firstFreeUID, lastFreeUID = 65300, 65519

// workerIDs gives the uid and gid of the worker. No workload may share them: a
// process of the same uid could signal the worker.
func workerIDs() (uid, gid int, err error) {
	if u, err := user.Lookup(workerUser); err == nil {
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err1 == nil && err2 == nil && uid > 0 && gid > 0 {
			return uid, gid, nil
		}
	}
	for id := firstFreeUID; id <= lastFreeUID; id++ {
		name := strconv.Itoa(id)
		if _, err := user.LookupId(name); err == nil {
			continue
		}
		if _, err := user.LookupGroupId(name); err == nil {
			continue
		}
		return id, id, nil
	}
	return 0, 0, errors.New("no free uid for the worker: create a system user named " + workerUser)
}

// A process is a worker as the keeper sees it.
type process struct {
	peer *wire.Peer
	// end is called once the connection has ended. It kills a process of our own, if
	// it still lives, and says how it ended.
	end func() error
	pid int
	// pidfd is of a process that a service manager started, close gives up one that
	// was never run.
	pidfd *os.File
	close func()
	// left is closed once the worker has given up its listeners. It then lives on
	// until what it had accepted has ended.
	left    chan struct{}
	leaving sync.Once
	// done is closed once the process has ended for us.
	done chan struct{}
	err  error
}

// kill ends a process that does not do what it must.
func (p *process) kill() {
	if p.pidfd != nil {
		_ = unix.PidfdSendSignal(int(p.pidfd.Fd()), unix.SIGKILL, nil, 0) // it may have ended
	}
}

// leave notes that the worker takes nothing further.
func (p *process) leave() { p.leaving.Do(func() { close(p.left) }) }

// hasLeft reports whether it takes nothing further.
func (p *process) hasLeft() bool {
	select {
	case <-p.left:
		return true
	case <-p.done:
		return true
	default:
		return false
	}
}

// startWorker starts the worker with a connection to handlers. The process ends
// with ctx, or by itself once the connection is gone.
func startWorker(ctx context.Context, handlers map[string]wire.Handler) (*process, error) {
	uid, gid, err := workerIDs()
	if err != nil {
		return nil, err
	}
	ours, theirs, err := wire.Pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command(self, Internal, InternalWork)
	cmd.Args[0] = "sallyport"
	cmd.Dir = "/"
	// Nothing of the caller's environment concerns the worker, and some of it
	// steers the Go runtime (GODEBUG, SSLKEYLOGFILE).
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	defer null.Close()
	cmd.Stdout, cmd.Stderr = null, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	if err := unprivileged.Start(cmd); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	conn, err := wire.NewConn(ours)
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, err
	}
	conn.SetLimits(workerLimits)
	p := newProcess(func() error {
		cmd.Process.Kill()
		return cmd.Wait()
	})
	p.pid = cmd.Process.Pid
	p.peer = wire.NewPeer(conn, handlers)
	go p.run(ctx)
	return p, nil
}

// workerLimits are what a worker may cost the keeper: all that it asks and
// answers is short, it has no descriptor to give, and one that takes nothing has
// to be replaced.
var workerLimits = wire.Limits{Payload: 1 << 20, SendTimeout: 5 * time.Second, NoFiles: true}

func newProcess(end func() error) *process {
	return &process{end: end, left: make(chan struct{}), done: make(chan struct{})}
}

// run serves the connection and reaps the process, in this order, so that a
// worker that closed its connection but lives on is killed.
func (p *process) run(ctx context.Context) {
	defer close(p.done)
	p.err = p.peer.Run(ctx)
	if err := p.end(); err != nil && ctx.Err() == nil {
		p.err = fmt.Errorf("worker ended: %w", err)
	}
}
