// Package agent is the worker: it puts the packages of the data path together,
// starts them in order, applies reloads, and stops them. It has no capability;
// what needs one it asks of the keeper.
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/ca"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/keeper/wire"
)

// An Agent is the worker as the keeper talks to it.
type Agent struct {
	newLogger func(level, format string) *zap.Logger
	keeper    *wire.Peer

	mu     sync.Mutex
	worker *worker
	// leaving is set once nothing further is accepted.
	leaving bool
	// stopped is closed once a Stop has been answered, or the worker failed.
	stopped chan struct{}
	once    sync.Once
	err     error
}

// Main serves the keeper on conn until it says stop or goes away. Without its
// keeper a worker has nothing to do: nobody guards what it would forward.
func Main(conn *wire.Conn, newLogger func(level, format string) *zap.Logger) error {
	a := &Agent{newLogger: newLogger, stopped: make(chan struct{})}
	a.keeper = wire.NewPeer(conn, a.handlers())
	defer a.preload()()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- a.keeper.Run(ctx) }()
	select {
	case <-ended:
		// Ending the process at once closes the listeners: they must not outlive
		// the keeper by a moment.
		return errors.New("worker: the keeper has gone")
	case <-a.stopped:
	}
	// The answer to Stop is on its way; the keeper closes the connection.
	select {
	case <-ended:
	case <-time.After(time.Second):
	}
	return a.err
}

// handlers answer the keeper.
func (a *Agent) handlers() map[string]wire.Handler {
	return map[string]wire.Handler{
		protocol.Start:     a.start,
		protocol.Configure: a.configure,
		protocol.Renew:     a.renew,
		protocol.Kernel:    a.kernel,
		protocol.Health:    a.health,
		protocol.Stop:      a.stop,

		protocol.OpenNamespace:  a.openNamespace,
		protocol.CloseNamespace: a.closeNamespace,
	}
}

// preload reads and parses the host's roots, which takes longer than all else at
// the start and is done once: the keeper is not ready to start us yet. The
// function that it gives waits for that.
func (a *Agent) preload() (wait func()) {
	var roots sync.WaitGroup
	roots.Go(func() { x509.SystemCertPool() })
	return roots.Wait
}

// current gives the running worker.
func (a *Agent) current() (*worker, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.worker == nil {
		return nil, errors.New("the worker was not started")
	}
	return a.worker, nil
}

func (a *Agent) start(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	var args protocol.StartArgs
	if err := m.Decode(&args); err != nil {
		m.CloseFiles()
		return nil, nil, err
	}
	if len(args.Roles) != len(m.Files) {
		m.CloseFiles()
		return nil, nil, fmt.Errorf("start: %d descriptors for %d roles", len(m.Files), len(args.Roles))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.worker != nil {
		m.CloseFiles()
		return nil, nil, errors.New("start: already started")
	}
	if a.leaving {
		m.CloseFiles()
		return nil, nil, errors.New("start: the worker is being stopped")
	}
	w, err := newWorker(a.keeper, &args, m.Files, a.newLogger)
	if err != nil {
		return nil, nil, err
	}
	w.run(func(err error) {
		a.err = err
		a.once.Do(func() { close(a.stopped) })
	})
	a.worker = w
	return nil, nil, nil
}

func (a *Agent) configure(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	defer m.CloseFiles()
	var c protocol.Configuration
	w, err := a.current()
	if err == nil {
		err = m.Decode(&c)
	}
	if err != nil {
		return nil, nil, err
	}
	return nil, nil, w.configure(&c)
}

func (a *Agent) renew(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	defer m.CloseFiles()
	var issuer ca.Material
	w, err := a.current()
	if err == nil {
		err = m.Decode(&issuer)
	}
	if err != nil {
		return nil, nil, err
	}
	return nil, nil, w.leaves.SetMaterial(issuer)
}

func (a *Agent) kernel(ctx context.Context, m *wire.Message) (any, []*os.File, error) {
	defer m.CloseFiles()
	var k protocol.KernelArgs
	w, err := a.current()
	if err == nil {
		err = m.Decode(&k)
	}
	if err != nil {
		return nil, nil, err
	}
	w.kernelEvents(ctx, &k)
	return nil, nil, nil
}

func (a *Agent) health(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	defer m.CloseFiles()
	var h protocol.HealthArgs
	w, err := a.current()
	if err == nil {
		err = m.Decode(&h)
	}
	if err != nil {
		return nil, nil, err
	}
	w.setHealth(&h)
	return nil, nil, nil
}

func (a *Agent) stop(_ context.Context, m *wire.Message) (any, []*os.File, error) {
	defer m.CloseFiles()
	var args protocol.StopArgs
	w, err := a.current()
	if err == nil {
		err = m.Decode(&args)
	}
	if err != nil {
		return nil, nil, err
	}
	err = w.stop(time.Duration(args.DrainSeconds * float64(time.Second)))
	a.once.Do(func() { close(a.stopped) })
	return nil, nil, err
}
