package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func serveWeb(t *testing.T, ready func() error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := Web{
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "the page\n") }),
		Ready:   ready,
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- web.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func TestWeb(t *testing.T) {
	var notReady error
	address := serveWeb(t, func() error { return notReady })
	tests := []struct {
		method, path, body string
		notReady           error
		status             int
		want               string
	}{
		{"GET", "/metrics", "", nil, 200, "the page\n"},
		{"HEAD", "/metrics", "", nil, 200, ""},
		{"GET", "/healthz", "", nil, 200, "ok\n"},
		{"GET", "/healthz", "", errors.New("x"), 200, "ok\n"},
		{"GET", "/readyz", "", nil, 200, "ready\n"},
		{"GET", "/readyz", "", errors.New("guard: table is missing"), 503, "not ready: guard: table is missing\n"},
		{"GET", "/", "", nil, 404, ""},
		{"GET", "/v1/status", "", nil, 404, ""},
		{"GET", "/metrics/x", "", nil, 404, ""},
		{"GET", "/debug/pprof/", "", nil, 404, ""},
		{"GET", "/debug/pprof/heap", "", nil, 404, ""},
		{"POST", "/v1/reload", "", nil, 404, ""},
		{"POST", "/metrics", "", nil, 405, ""},
		{"GET", "/metrics", "body", nil, 413, ""},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			notReady = tt.notReady
			q, err := http.NewRequest(tt.method, "http://"+address+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			response, err := http.DefaultClient.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != tt.status || tt.want != "" && string(body) != tt.want {
				t.Errorf("%d %q, %v; want %d %q", response.StatusCode, body, err, tt.status, tt.want)
			}
		})
	}
}

func TestBoundedListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := newBounded(inner, 2)
	accepted := make(chan net.Conn)
	ended := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- c
		}
	}()
	for range 3 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	<-accepted
	select {
	case <-accepted:
		t.Fatal("a third connection was accepted")
	case <-time.After(50 * time.Millisecond):
	}
	first.Close()
	first.Close() // frees one place only
	<-accepted
	l.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
}
