package admin

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Web is what the TCP listener of metrics.listen serves: /metrics, /healthz and
// /readyz by GET and HEAD, and nothing else.
type Web struct {
	// Metrics serves /metrics.
	Metrics http.Handler
	// Ready is Backend.Ready.
	Ready func() error
	// Log takes what goes wrong; nil: nothing.
	Log *zap.Logger
}

// maxWebConns bounds the TCP connections; further ones wait in the backlog.
const maxWebConns = 64

// Serve answers on l until ctx ends. It closes l and returns nil, or the
// listener's error.
func (h Web) Serve(ctx context.Context, l net.Listener) error {
	log := h.Log
	if log == nil {
		log = zap.NewNop()
	}
	server := &http.Server{
		Handler:           h.routes(),
		ReadHeaderTimeout: headTimeout,
		ReadTimeout:       bodyTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       2 * time.Minute, // above the usual scrape interval
		MaxHeaderBytes:    maxHeadBytes,
		ErrorLog:          zap.NewStdLog(log),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	return serve(ctx, server, newBounded(l, maxWebConns))
}

func (h Web) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+pathMetrics, h.Metrics)
	mux.HandleFunc("GET "+pathHealthy, healthy)
	mux.HandleFunc("GET "+pathReady, ready(h.Ready))
	addProfile(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
			http.Error(w, "no body is read here", http.StatusRequestEntityTooLarge)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func healthy(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", typeText)
	io.WriteString(w, "ok\n")
}

func ready(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", typeText)
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, "not ready: "+err.Error()+"\n")
			return
		}
		io.WriteString(w, "ready\n")
	}
}

// bounded accepts only as many connections at a time as there are places.
type bounded struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newBounded(l net.Listener, n int) *bounded {
	return &bounded{Listener: l, places: make(chan struct{}, n), closed: make(chan struct{})}
}

// Accept waits for a place and then for a connection.
func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.places <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	conn, err := b.Listener.Accept()
	if err != nil {
		<-b.places
		return nil, err
	}
	return &boundedConn{Conn: conn, leave: func() { <-b.places }}, nil
}

// Close wakes an Accept that waits for a place, too.
func (b *bounded) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Listener.Close()
}

type boundedConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close frees the place, once.
func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.leave)
	return err
}
