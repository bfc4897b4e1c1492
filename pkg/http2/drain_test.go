package http2

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"sallyport/pkg/exchange"
)

func TestDrain(t *testing.T) {
	serve := func(t *testing.T, handle func(*ServerStream)) (*peer, *ServerConn, chan error) {
		a, b := tcpPair(t)
		srv := new(Codec).Server(a, ServerOptions{Exchanges: new(exchange.Pool)})
		done := make(chan error, 1)
		go func() {
			err := srv.Serve(context.Background(), handle)
			srv.Close()
			done <- err
		}()
		p := newPeer(t, b)
		io.WriteString(b, preface)
		p.WriteSettings()
		p.sync()
		return p, srv, done
	}
	end := func(t *testing.T, p *peer, done chan error) {
		t.Helper()
		p.want("end")
		p.nc.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Run("idle", func(t *testing.T) {
		p, srv, done := serve(t, strict)
		srv.Drain()
		srv.Drain()
		p.want("goaway 2147483647 NO_ERROR", "ping")
		p.WritePing(true, drainPing)
		p.want("goaway 0 NO_ERROR")
		end(t, p, done)
	})
	t.Run("client that does not answer", func(t *testing.T) {
		p, srv, done := serve(t, strict)
		srv.Drain()
		p.want("goaway 2147483647 NO_ERROR", "ping", "goaway 0 NO_ERROR")
		end(t, p, done)
	})
	t.Run("open streams finish", func(t *testing.T) {
		wait := make(chan struct{})
		p, srv, done := serve(t, func(s *ServerStream) { <-wait; strict(s) })
		p.get(1)
		p.sync()
		srv.Drain()
		p.want("goaway 2147483647 NO_ERROR", "ping")
		p.get(3) // was on its way
		p.WritePing(true, drainPing)
		p.want("goaway 3 NO_ERROR")
		p.get(5) // was told not to
		p.sync()
		if n := served(srv); n != 2 {
			t.Error(n)
		}
		close(wait)
		for range 2 {
			if f := p.next(); f != "headers 1 :status=200 end" && f != "headers 3 :status=200 end" {
				t.Error(f)
			}
		}
		end(t, p, done)
	})
	t.Run("by the client", func(t *testing.T) {
		wait := make(chan struct{})
		p, _, done := serve(t, func(s *ServerStream) { <-wait; strict(s) })
		p.get(1)
		p.WriteGoAway(0, 0, nil)
		p.sync()
		close(wait)
		p.want("headers 1 :status=200 end")
		end(t, p, done)
	})
	t.Run("abort", func(t *testing.T) {
		p, srv, done := serve(t, func(s *ServerStream) {
			gone := make(chan struct{})
			s.OnCancel(func() { close(gone) })
			<-gone
		})
		p.get(1)
		p.sync()
		srv.Abort()
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if _, err := p.ReadFrame(); err == nil || err == io.EOF {
			t.Errorf("%v is no reset", err)
		}
	})
	t.Run("context", func(t *testing.T) {
		a, _ := tcpPair(t)
		srv := new(Codec).Server(a, ServerOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		if err := srv.Serve(ctx, strict); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		srv.Close()
	})
	t.Run("end by the client", func(t *testing.T) {
		p, _, done := serve(t, strict)
		p.get(1)
		p.want("headers 1 :status=200 end")
		p.nc.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("end within a frame", func(t *testing.T) {
		p, _, done := serve(t, strict)
		p.nc.Write([]byte{0, 0, 8})
		p.nc.Close()
		if err := <-done; err != io.ErrUnexpectedEOF {
			t.Error(err)
		}
	})
}

// TestTrim has the reader give its buffer back while it waits, within a frame
// and between two, and looks that it reads on.
func TestTrim(t *testing.T) {
	p, srv, _ := clientPeer(t, ServerOptions{}, func(s *ServerStream) {
		if s.id < 5 {
			gone := make(chan struct{})
			s.OnCancel(func() { close(gone) })
			<-gone
			return
		}
		strict(s)
	})
	p.get(1)
	p.get(3)
	p.sync()
	trim := func() {
		t.Helper()
		waitFor(t, func() bool {
			srv.c.mu.Lock()
			defer srv.c.mu.Unlock()
			return srv.c.in.waiting
		})
		srv.c.mu.Lock()
		srv.c.in.trim = true
		srv.c.wakeReader()
		srv.c.mu.Unlock()
	}
	trim()
	p.sync()
	trim()
	p.nc.Write([]byte{0, 0, 8, 6, 0, 0})
	trim()
	p.nc.Write([]byte{0, 0, 0, 1, 2, 3})
	trim()
	p.nc.Write([]byte{4, 5, 6, 7, 8})
	p.want("pong")
	p.WriteRSTStream(1, xhttp2.ErrCodeCancel)
	p.WriteRSTStream(3, xhttp2.ErrCodeCancel)
	p.get(5)
	p.want("headers 5 :status=200 end")
}

// TestIdleHoldsNothing looks at what a connection without streams holds.
func TestIdleHoldsNothing(t *testing.T) {
	p, srv, _ := clientPeer(t, ServerOptions{}, strict)
	p.get(1)
	p.want("headers 1 :status=200 end")
	deadline := time.Now().Add(30 * time.Second)
	for {
		srv.c.mu.Lock()
		workers, output, running := len(srv.parked), srv.c.out.b, srv.running
		srv.c.mu.Unlock()
		if workers == 0 && output == nil && running == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(workers, output, running)
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.get(3)
	p.want("headers 3 :status=200 end")
}
