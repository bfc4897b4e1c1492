package doctor

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/ca"
)

// probeName is the name that runtimes connect to: every host has it.
const probeName = "localhost"

// Handshakes is an HTTPS server with a leaf of ours. It notes which requests
// came, since only a client that accepted the certificate sends one.
type Handshakes struct {
	port   int
	server *http.Server
	done   chan struct{}

	mu   sync.Mutex
	seen map[string]bool
	// failures are the handshakes that ended with an error since the last look.
	failures []string
}

// NewHandshakes listens on both loopback addresses where there are two.
func NewHandshakes(leaves *ca.Leaves) (*Handshakes, error) {
	h := &Handshakes{seen: make(map[string]bool), done: make(chan struct{})}
	leaf, err := leaves.Certificate(probeName)
	if err != nil {
		return nil, err
	}
	listeners, err := loopbacks()
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	h.port = listeners[0].Addr().(*net.TCPAddr).Port
	h.server = &http.Server{Handler: http.HandlerFunc(h.answer), ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New((*failureLog)(h), "", 0)}
	config := &tls.Config{Certificates: []tls.Certificate{*leaf}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	var serving sync.WaitGroup
	for _, l := range listeners {
		serving.Go(func() { h.server.Serve(tls.NewListener(l, config)) })
	}
	go func() {
		serving.Wait()
		close(h.done)
	}()
	return h, nil
}

// loopbacks listens at one port of both loopback addresses, or of IPv4's where the
// host has no other.
func loopbacks() ([]net.Listener, error) {
	const tries = 16 // the kernel gives a port that is free on the one address
	for left := tries; ; left-- {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		l6, err := net.Listen("tcp6", fmt.Sprintf("[::1]:%d", l.Addr().(*net.TCPAddr).Port))
		switch {
		case err == nil:
			return []net.Listener{l, l6}, nil
		case !errors.Is(err, unix.EADDRINUSE):
			return []net.Listener{l}, nil
		}
		// Whoever listens there would answer in our place.
		l.Close()
		if left == 1 {
			return nil, err
		}
	}
}

// Close ends the server and waits for it.
func (h *Handshakes) Close() {
	h.server.Close()
	<-h.done
}

// url is what a runtime is told to fetch; the path names it.
func (h *Handshakes) url(runtime string) string {
	return fmt.Sprintf("https://%s:%d/%s", probeName, h.port, runtime)
}

// came reports whether the runtime's request came through.
func (h *Handshakes) came(runtime string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[runtime]
}

// lastFailure gives what the last failed handshake said, and forgets it.
func (h *Handshakes) lastFailure() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.failures) == 0 {
		return ""
	}
	last := h.failures[len(h.failures)-1]
	h.failures = nil
	return last
}

func (h *Handshakes) answer(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path[1:]
	h.mu.Lock()
	for _, known := range runtimes() {
		if len(name) >= len(known.name) && name[:len(known.name)] == known.name {
			h.seen[known.name] = true
		}
	}
	h.mu.Unlock()
	io.WriteString(w, "sallyport\n")
}

// failureLog takes the server's log lines, of which only the handshakes matter.
type failureLog Handshakes

// maxFailures bounds the lines that are kept.
const maxFailures = 16

func (f *failureLog) Write(line []byte) (int, error) {
	h := (*Handshakes)(f)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.failures) < maxFailures {
		h.failures = append(h.failures, string(line))
	}
	return len(line), nil
}

var errNoAnswer = errors.New("its request did not come through")
