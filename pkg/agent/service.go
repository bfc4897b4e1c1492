package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
)

const (
	// keeperRetry is how often a keeper is looked for that is not there.
	keeperRetry = 20 * time.Millisecond
	// refusedPause is how long a worker lives that the keeper does not take, so that
	// whoever starts workers does not start many of them.
	refusedPause = time.Second
	// leaveTimeout bounds telling the keeper.
	leaveTimeout = time.Second
)

// A service is the worker as a service of its own. It ends for good when its main
// process asks for it or has gone, and when the keeper asks for it or has gone:
// then it gives up its listeners at once, and what it has accepted goes on for at
// most timeouts.drain.
type service struct {
	*Agent
	control *wire.Peer
	socket  string
	log     *zap.Logger

	once sync.Once
	// left is closed when the listeners are given up.
	left chan struct{}

	mu      sync.Mutex
	status  string
	refused string
}

// Serve connects to the keeper at a socket, waiting for it as long as it has to,
// and serves it. control is the connection to the main process.
func Serve(socket string, control *wire.Conn, newLogger func(level, format string) *zap.Logger) error {
	s := &service{
		Agent:  &Agent{newLogger: newLogger, stopped: make(chan struct{})},
		socket: socket, left: make(chan struct{}), status: protocol.StatusWaiting,
		log: newLogger("info", "json"),
	}
	defer s.preload()()
	var peers sync.WaitGroup
	defer peers.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.control = wire.NewPeer(control, map[string]wire.Handler{
		protocol.Ping:   s.ping,
		protocol.Yield:  s.yielded,
		protocol.Reload: s.reload,
	})
	ungoverned := make(chan struct{})
	peers.Go(func() {
		defer close(ungoverned)
		_ = s.control.Run(ctx) // its error is that the main process has gone
	})
	conn, err := s.dial(ungoverned)
	if err != nil {
		return err
	}
	handlers := s.handlers()
	handlers[protocol.Yield] = s.yielded
	handlers[protocol.Refused] = s.refuse
	handlers[protocol.Rotated] = s.rotated
	s.mu.Lock()
	s.keeper = wire.NewPeer(conn, handlers)
	s.mu.Unlock()
	gone := make(chan struct{})
	peers.Go(func() {
		defer close(gone)
		_ = s.keeper.Run(ctx) // its error is that the keeper has gone
	})
	s.say(protocol.StatusConnected)
	select {
	case <-gone:
		if err := s.refusal(); err != nil {
			time.Sleep(refusedPause)
			return err
		}
		s.log.Warn("the keeper has gone")
	case <-ungoverned:
	case <-s.left:
	case <-s.stopped:
		return s.err
	}
	s.leave()
	s.say(protocol.StatusDraining)
	w, err := s.current()
	if err != nil {
		return nil
	}
	if err := w.stop(w.drainTime()); err != nil {
		return err
	}
	return s.err
}

// dial connects to the keeper, and waits for it until this worker is not needed
// any more.
func (s *service) dial(ungoverned <-chan struct{}) (*wire.Conn, error) {
	for {
		c, err := net.Dial("unixpacket", s.socket)
		if err == nil {
			return wire.FromUnix(c.(*net.UnixConn)), nil
		}
		select {
		case <-ungoverned:
			return nil, errors.New("worker: not needed any more")
		case <-s.left:
			return nil, errors.New("worker: not needed any more")
		case <-time.After(keeperRetry):
		}
	}
}

// leave gives up the listeners and tells the keeper, so that the next worker gets
// them.
func (s *service) leave() {
	s.once.Do(func() {
		s.Agent.mu.Lock()
		s.leaving = true
		w := s.worker
		s.Agent.mu.Unlock()
		if w != nil {
			w.yield()
		}
		s.mu.Lock()
		keeper := s.keeper
		s.mu.Unlock()
		if keeper != nil {
			ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
			defer cancel()
			if _, err := keeper.Call(ctx, protocol.Leave, nil, nil, nil); err != nil && !errors.Is(err, wire.ErrGone) {
				s.log.Warn("the keeper was not told", zap.Error(err))
			}
		}
		close(s.left)
	})
	<-s.left
}

func (s *service) yielded(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	m.CloseFiles()
	s.leave()
	return nil, nil, nil
}

func (s *service) reload(ctx context.Context, m *wire.Message) (any, []*os.File, error) {
	m.CloseFiles()
	w, err := s.current()
	if err == nil {
		_, err = w.Reload(ctx)
	}
	return nil, nil, err
}

// rotated has the audit go on in the file that has its name now.
func (s *service) rotated(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	m.CloseFiles()
	w, err := s.current()
	if err == nil && w.sinks.file != nil {
		w.sinks.file.Reopen()
	}
	return nil, nil, err
}

// refuse takes the keeper's word that this worker is not wanted.
func (s *service) refuse(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	defer m.CloseFiles()
	var args protocol.RefusedArgs
	if err := m.Decode(&args); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused, s.status = args.Reason, "refused by the keeper: "+args.Reason
	return nil, nil, nil
}

// refusal says why the keeper does not want this worker, nil where it does.
func (s *service) refusal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused == "" {
		return nil
	}
	return fmt.Errorf("worker: refused by the keeper: %s", s.refused)
}

func (s *service) say(status string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// ping tells the main process how this one is. That it is told at all says that
// this process does its work: it takes the locks which serving takes.
func (s *service) ping(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	m.CloseFiles()
	var out protocol.PingResult
	s.mu.Lock()
	out.Status = s.status
	s.mu.Unlock()
	select {
	case <-s.left:
		out.Left = true
		return out, nil, nil
	default:
	}
	w, err := s.current()
	if err != nil {
		return out, nil, nil
	}
	h := w.report.Load()
	out.Ready = h.Ready
	out.Status = w.summary(h)
	return out, nil, nil
}

// summary is a line for `systemctl status`.
func (w *worker) summary(h *protocol.HealthArgs) string {
	state := "enforcement proven"
	switch {
	case !h.Ready:
		state = "waiting for the self-probe"
	case !h.EnforcementActive:
		state = "enforcement NOT proven"
		if len(h.Problems) > 0 {
			state += ": " + h.Problems[0]
		}
	}
	connections := 0
	for _, r := range w.proxy.Resources() {
		if r.Name == "connections" {
			connections = int(r.Entries)
		}
	}
	return fmt.Sprintf("mode %s, %s, %d connections", w.config.Load().config.Mode, state, connections)
}
