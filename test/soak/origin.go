package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// An origin is the server: bodies from streams, bodies compared with streams,
// events, WebSockets that echo.
type origin struct {
	secure, clear string
	certificates  []string
	// wrong counts uploads with a wrong byte; refused requests that arrived.
	wrong, trespassed atomic.Int64
}

func (o *origin) serve(ctx context.Context) error {
	config := &tls.Config{NextProtos: []string{"h2", "http/1.1"}}
	for _, pair := range o.certificates {
		cert, key, _ := strings.Cut(pair, ":")
		c, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return err
		}
		config.Certificates = append(config.Certificates, c)
	}
	server := &http.Server{Handler: o.mux(), Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	secure, err := net.Listen("tcp", o.secure)
	if err != nil {
		return err
	}
	clear, err := net.Listen("tcp", o.clear)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- server.Serve(tls.NewListener(secure, config)) }()
	go func() { failed <- server.Serve(clear) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	server.Close()
	fmt.Fprintf(os.Stdout, "wrong %d trespassed %d\n", o.wrong.Load(), o.trespassed.Load())
	return err
}

// mux: the second part of each path is what is wanted, the rest makes it
// unique.
func (o *origin) mux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/body/", o.body)
	mux.HandleFunc("/events/", events)
	mux.HandleFunc("/socket/", socket)
	mux.HandleFunc("/denied/", func(w http.ResponseWriter, r *http.Request) { o.trespassed.Add(1) })
	mux.HandleFunc("/figures", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "wrong %d trespassed %d\n", o.wrong.Load(), o.trespassed.Load())
	})
	return mux
}

func number(r *http.Request, name string) uint64 {
	n, _ := strconv.ParseUint(r.URL.Query().Get(name), 10, 64)
	return n
}

// body takes ?up bytes of the stream ?seed and answers with ?down of them,
// without a length if asked for ?chunked.
func (o *origin) body(w http.ResponseWriter, r *http.Request) {
	seed, up, down := number(r, "seed"), int64(number(r, "up")), int64(number(r, "down"))
	if up > 0 {
		c := newComparing(seed)
		n, err := io.CopyBuffer(c, struct{ io.Reader }{r.Body}, make([]byte, 16<<10))
		var wrong *wrongError
		switch {
		case errors.As(err, &wrong), err == nil && n != up:
			// A body that ends early without an error is one whose end was lost.
			o.wrong.Add(1)
			http.Error(w, fmt.Sprintf("%d of %d bytes: %v", n, up, err), http.StatusConflict)
			return
		case err != nil:
			panic(http.ErrAbortHandler)
		}
	}
	if !r.URL.Query().Has("chunked") {
		w.Header().Set("Content-Length", strconv.FormatInt(down, 10))
	}
	io.CopyN(w, newStream(seed+1), down)
}

// events sends ?count events, ?every milliseconds apart.
func events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	count, every := number(r, "count"), time.Duration(number(r, "every"))*time.Millisecond
	for i := range count {
		fmt.Fprintf(w, "id: %d\ndata: %s\n\n", i, strings.Repeat("x", int(i%97)))
		if rc.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(every):
		}
	}
}

// socket accepts a WebSocket and gives each frame back, until a close frame
// has been answered. The key's answer is not computed: our client does not ask.
func socket(w http.ResponseWriter, r *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer conn.Close()
	io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n")
	if rw.Flush() != nil {
		return
	}
	echoFrames(rw)
}

func echoFrames(rw *bufio.ReadWriter) {
	for {
		op, p, err := readFrame(rw.Reader)
		if err != nil || writeFrame(rw.Writer, op, p, false) != nil || rw.Flush() != nil || op == opClose {
			return
		}
	}
}
