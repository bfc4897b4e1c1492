// Package supervisor is the main process of the worker's service. A worker that is
// stopped drains for as long as its streams need, but a service manager starts the
// next main process only when the last one has ended. So the main process is this
// one, which does nothing but start one worker, speak for it, and end when that
// has given up its listeners: the worker then drains beside its successor
// (KillMode=process).
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/unprivileged"
	"sallyport/pkg/keeper/wire"
)

const (
	// pingInterval is how often the worker is asked how it is: READY is that late at
	// most, and so is the start of the next worker when the keeper has gone.
	pingInterval = 50 * time.Millisecond
	// pingTimeout is how long it may take to answer. It is then killed.
	pingTimeout = 10 * time.Second
	// yieldTimeout bounds giving up the listeners; longer than the worker needs.
	yieldTimeout = 3 * time.Second
)

// Options say what a Supervisor runs.
type Options struct {
	// Argv are the worker's arguments to this binary.
	Argv []string
	// Notify tells the service manager (sd_notify(3)); it must not be nil.
	Notify func(state string)
	// Watchdog is how often the service manager wants to hear that the worker
	// answers; 0: never.
	Watchdog time.Duration
	// Reload is told when the configuration is to be read again.
	Reload <-chan os.Signal
	Log    *zap.Logger
}

// A Supervisor has one worker.
type Supervisor struct {
	Options
	cmd    *exec.Cmd
	peer   *wire.Peer
	exited chan error

	status string
	ready  bool
	beat   time.Time
}

// New prepares one; Run starts the worker.
func New(o Options) *Supervisor { return &Supervisor{Options: o, exited: make(chan error, 1)} }

// Run starts the worker and returns when it has given up its listeners, which it
// is asked for when ctx ends; it lives on then. The error says why a worker ended
// that was not asked to.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := s.start(); err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	// The worker notices when the connection ends, and drains.
	talking, cancel := context.WithCancel(context.Background())
	defer cancel()
	go s.peer.Run(talking)
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-s.exited:
			return fmt.Errorf("the worker ended: %w", err)
		case <-ctx.Done():
			s.Notify("STOPPING=1\nSTATUS=draining")
			return s.yield()
		case <-s.Reload:
			s.reload(ctx)
		case <-tick.C:
			left, err := s.ping()
			if left || err != nil {
				return err
			}
		}
	}
}

// start starts the worker with a connection to us.
func (s *Supervisor) start() error {
	ours, theirs, err := wire.Pair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		ours.Close()
		return err
	}
	defer null.Close()
	cmd := exec.Command("/proc/self/exe", s.Argv...)
	cmd.Args[0] = "sallyport"
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Stdout, cmd.Stderr = null, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := unprivileged.Start(cmd); err != nil {
		ours.Close()
		return err
	}
	s.cmd = cmd
	go func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("it had nothing to do")
		}
		s.exited <- err
	}()
	conn, err := wire.NewConn(ours)
	if err != nil {
		cmd.Process.Kill()
		return err
	}
	s.peer = wire.NewPeer(conn, nil)
	return nil
}

// ping asks the worker how it is and passes that on. An error means that it has
// been killed.
func (s *Supervisor) ping() (left bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	var r protocol.PingResult
	_, err = s.peer.Call(ctx, protocol.Ping, nil, nil, &r)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		s.cmd.Process.Kill()
		return false, fmt.Errorf("the worker did not answer for %s and was killed", pingTimeout)
	case err != nil:
		return false, nil // it has ended: exited says how
	case r.Left:
		return true, nil
	}
	now := time.Now()
	var news string
	if r.Ready && !s.ready {
		s.ready = true
		news += "READY=1\n"
	}
	if r.Status != s.status {
		s.status = r.Status
		news += "STATUS=" + r.Status + "\n"
	}
	if s.Watchdog > 0 && now.Sub(s.beat) >= s.Watchdog/3 {
		s.beat = now
		news += "WATCHDOG=1\n"
	}
	if news != "" {
		s.Notify(news)
	}
	return false, nil
}

// yield has the worker give up its listeners. Without an answer in time it is
// killed: the next one must get them.
func (s *Supervisor) yield() error {
	ctx, cancel := context.WithTimeout(context.Background(), yieldTimeout)
	defer cancel()
	_, err := s.peer.Call(ctx, protocol.Yield, nil, nil, nil)
	if errors.Is(err, context.DeadlineExceeded) {
		s.cmd.Process.Kill()
		return fmt.Errorf("the worker did not give up its listeners for %s and was killed", yieldTimeout)
	}
	return nil
}

func (s *Supervisor) reload(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := s.peer.Call(ctx, protocol.Reload, nil, nil, nil); err != nil {
		s.Log.Error("reload", zap.Error(err))
	}
}
