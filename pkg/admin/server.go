package admin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/audit"
)

// The bounds of the socket. Root always finds a place: others together get at
// most maxOthers connections, and each uid maxPerUID.
const (
	maxConns      = 64
	maxOthers     = 48
	maxPerUID     = 16
	maxHeadBytes  = 16 << 10
	maxBodyBytes  = 1 << 20
	headTimeout   = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	answerTimeout = 30 * time.Second
	idleTimeout   = time.Minute
	// streamTimeout is how long a follower may refuse to take a write.
	streamTimeout = 10 * time.Second
	// heartbeat is how often a stream that has nothing to say writes an empty
	// line, so that a client that went away is noticed.
	heartbeat = 30 * time.Second
)

// Options says how a Server works.
type Options struct {
	Backend Backend
	Access  Access
	// Record takes admin events: changes that were asked for, and refused peers.
	// Nil: none.
	Record func(*audit.Event)
	// Metrics serves /metrics on the socket too; nil: 404.
	Metrics http.Handler
	// Log takes what goes wrong; nil: nothing.
	Log *zap.Logger
}

// A Server answers on the unix socket.
type Server struct {
	o       Options
	refused refusals
	// streamTimeout and heartbeat are the constants, but in tests.
	streamTimeout, heartbeat time.Duration
}

// NewServer makes a Server.
func NewServer(o Options) (*Server, error) {
	if o.Backend == nil || o.Access.Tagged == nil {
		return nil, errors.New("admin: a backend and a check for tagged peers are required")
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	return &Server{o: o, streamTimeout: streamTimeout, heartbeat: heartbeat}, nil
}

// Serve answers on l until ctx ends; streams end with it, other answers get 5 s.
// It closes l and returns nil, or the listener's error. l gives *net.UnixConn.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	limited := newPeerListener(l, s.o.Log)
	server := &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: headTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeadBytes,
		ErrorLog:          zap.NewStdLog(s.o.Log),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, &client{conn: c.(*peerConn)})
		},
	}
	return serve(ctx, server, limited)
}

// serve runs a server until ctx ends.
func serve(ctx context.Context, server *http.Server, l net.Listener) error {
	const grace = 5 * time.Second
	done := make(chan struct{})
	var stopped sync.WaitGroup
	stopped.Go(func() {
		select {
		case <-ctx.Done():
		case <-done:
			return
		}
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if server.Shutdown(stop) != nil {
			server.Close()
		}
	})
	err := server.Serve(l)
	close(done)
	stopped.Wait()
	if errors.Is(err, http.ErrServerClosed) || ctx.Err() != nil {
		return nil
	}
	return err
}

type connKey struct{}

// A client is one connection; whether it is a workload is asked once, in its own
// goroutine.
type client struct {
	conn  *peerConn
	once  sync.Once
	error error
}

func (c *client) check(a *Access) error {
	c.once.Do(func() { c.error = a.tagged(c.conn.peer) })
	return c.error
}
