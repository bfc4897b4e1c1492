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
	"sync"
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
	// exitTimeout is how long a worker may live on that has closed its connection to
	// us unasked: nobody could ask it for its listeners any more.
	exitTimeout = time.Second
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
	cmd  *exec.Cmd
	peer *wire.Peer

	status string
	ready  bool
	beat   time.Time
}

// New prepares one; Run starts the worker.
func New(o Options) *Supervisor { return &Supervisor{Options: o} }

// Run starts the worker and returns when it has given up its listeners, which it
// is asked for when ctx ends; it lives on then. The error says why a worker ended
// that was not asked to.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := s.start(); err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	talking, hangUp := context.WithCancel(context.Background())
	gone := make(chan struct{})
	var owned sync.WaitGroup
	// The worker notices when the connection ends, and drains.
	defer func() { hangUp(); owned.Wait() }()
	owned.Go(func() {
		defer close(gone)
		_ = s.peer.Run(talking) // its error is that the worker has gone
	})
	reload, reloaded := s.Reload, make(chan struct{}, 1)
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-gone:
			return fmt.Errorf("the worker ended: %w", s.reap(exitTimeout))
		case <-ctx.Done():
			s.Notify("STOPPING=1\nSTATUS=draining")
			return s.yield()
		case <-reload:
			// One at a time, beside the pings that the watchdog waits for.
			reload = nil
			owned.Go(func() {
				s.reload(ctx)
				reloaded <- struct{}{}
			})
		case <-reloaded:
			reload = s.Reload
		case <-tick.C:
			left, err := s.ping(ctx)
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
	conn, err := wire.NewConn(ours)
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		conn.Close()
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
		conn.Close()
		return err
	}
	s.cmd, s.peer = cmd, wire.NewPeer(conn, nil)
	return nil
}

// reap waits for the worker, kills it after the given time, and says how it ended.
func (s *Supervisor) reap(after time.Duration) error {
	kill := time.AfterFunc(after, func() { s.cmd.Process.Kill() })
	defer kill.Stop()
	if err := s.cmd.Wait(); err != nil {
		return err
	}
	return errors.New("it had nothing to do")
}

// ping asks the worker how it is and passes that on; left says that it has given up
// its listeners by itself. An error means that it has been killed.
func (s *Supervisor) ping(ctx context.Context) (left bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	var r protocol.PingResult
	_, err = s.peer.Call(ctx, protocol.Ping, nil, nil, &r)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		_ = s.reap(0) // how is no news
		return false, fmt.Errorf("the worker did not answer for %s and was killed", pingTimeout)
	case err != nil:
		return false, nil // we are to stop, or it has ended: Run hears of both
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
	ctx, cancel := context.WithTimeout(context.Background(), protocol.YieldTimeout)
	defer cancel()
	_, err := s.peer.Call(ctx, protocol.Yield, nil, nil, nil)
	if errors.Is(err, context.DeadlineExceeded) {
		_ = s.reap(0)
		return fmt.Errorf("the worker did not give up its listeners for %s and was killed", protocol.YieldTimeout)
	}
	return nil
}

// reload has the worker read its configuration; what is wrong with that is in the
// worker's log and status.
func (s *Supervisor) reload(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := s.peer.Call(ctx, protocol.Reload, nil, nil, nil); err != nil {
		s.Log.Error("reload", zap.Error(err))
	}
}
