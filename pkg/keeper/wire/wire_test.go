package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

type text struct {
	Text string `json:"text"`
}

// peers connects two running peers with the handlers of the second.
func peers(t *testing.T, handlers map[string]Handler) (*Peer, context.CancelFunc) {
	t.Helper()
	a, b, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	ca, err := NewConn(a)
	if err != nil {
		t.Fatal(err)
	}
	cb, err := NewConn(b)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	caller, answerer := NewPeer(ca, nil), NewPeer(cb, handlers)
	done := make(chan error, 2)
	go func() { done <- caller.Run(ctx) }()
	go func() { done <- answerer.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		<-done
	})
	return caller, cancel
}

func TestCall(t *testing.T) {
	p, _ := peers(t, map[string]Handler{
		"echo": func(_ context.Context, m *Message) (any, []*os.File, error) {
			var in text
			if err := m.Decode(&in); err != nil {
				return nil, nil, err
			}
			return in, m.Files, nil
		},
		"fail": func(context.Context, *Message) (any, []*os.File, error) {
			return nil, nil, errors.New("no such thing")
		},
	})
	for _, size := range []int{0, 1, maxInline - 64, maxInline + 1, 5 << 20} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		in := text{strings.Repeat("x", size)}
		var out text
		files, err := p.Call(t.Context(), "echo", in, []*os.File{w}, &out)
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		w.Close()
		if out != in {
			t.Errorf("size %d: %d bytes came back", size, len(out.Text))
		}
		if len(files) != 1 {
			t.Fatalf("size %d: %d descriptors came back, want 1", size, len(files))
		}
		io.WriteString(files[0], "through")
		files[0].Close()
		got, _ := io.ReadAll(r)
		if string(got) != "through" {
			t.Errorf("size %d: the descriptor is not the one sent: read %q", size, got)
		}
		r.Close()
	}
	var remote *RemoteError
	if _, err := p.Call(t.Context(), "fail", nil, nil, nil); !errors.As(err, &remote) || remote.Text != "no such thing" {
		t.Errorf("fail: got %v", err)
	}
	if _, err := p.Call(t.Context(), "nothing", nil, nil, nil); !errors.As(err, &remote) {
		t.Errorf("unknown method: got %v", err)
	}
}

// TestGone: a caller never waits for a process that is not there.
func TestGone(t *testing.T) {
	blocked := make(chan struct{})
	var once sync.Once
	p, cancel := peers(t, map[string]Handler{
		"wait": func(ctx context.Context, _ *Message) (any, []*os.File, error) {
			once.Do(func() { close(blocked) })
			<-ctx.Done()
			return nil, nil, ctx.Err()
		},
	})
	go func() { <-blocked; cancel() }()
	if _, err := p.Call(context.Background(), "wait", nil, nil, nil); err == nil {
		t.Error("a call outlived the other process")
	}
	if _, err := p.Call(context.Background(), "wait", nil, nil, nil); !errors.Is(err, ErrGone) {
		t.Errorf("second call: got %v, want ErrGone", err)
	}
}

// TestGoneUnnoticed: the other process has gone, or the connection was closed, and
// Run has not seen it yet.
func TestGoneUnnoticed(t *testing.T) {
	for name, end := range map[string]func(ours *Conn, theirs *os.File){
		"the other process has gone": func(_ *Conn, theirs *os.File) { theirs.Close() },
		"closed":                     func(ours *Conn, _ *os.File) { ours.Close() },
	} {
		ours, theirs, err := Pair()
		if err != nil {
			t.Fatal(err)
		}
		c, err := NewConn(ours)
		if err != nil {
			t.Fatal(err)
		}
		end(c, theirs)
		if _, err := NewPeer(c, nil).Call(t.Context(), "x", nil, nil, nil); !errors.Is(err, ErrGone) {
			t.Errorf("%s: got %v, want ErrGone", name, err)
		}
		c.Close()
		theirs.Close()
	}
}

// TestHostile: what a captured worker could send is an error, never a crash, a
// read of a foreign file or unbounded memory.
func TestHostile(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "plain")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	file.WriteString(`{"text":"foreign"}`)
	for name, send := range map[string]struct {
		packet string
		fds    []int
	}{
		"no JSON":               {packet: "\x00\x01"},
		"duplicate member":      {packet: `{"method":"a","method":"b"}`},
		"unknown member":        {packet: `{"method":"a","more":1}`},
		"detached, nothing":     {packet: `{"method":"a","detached":true}`},
		"detached, plain file":  {packet: `{"method":"a","detached":true}`, fds: []int{int(file.Fd())}},
		"longer than the limit": {packet: `{"method":"` + strings.Repeat("a", 2*maxInline) + `"}`},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, err := Pair()
			if err != nil {
				t.Fatal(err)
			}
			c, err := NewConn(b)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			defer a.Close()
			var oob []byte
			if send.fds != nil {
				oob = unix.UnixRights(send.fds...)
			}
			if err := unix.Sendmsg(int(a.Fd()), []byte(send.packet), oob, nil, 0); err != nil {
				t.Fatal(err)
			}
			if m, err := c.Receive(); err == nil {
				t.Errorf("accepted: %+v", m)
			}
		})
	}
}

func TestDetachedIsSealed(t *testing.T) {
	mem, err := detach([]byte("body"))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	if _, err := mem.WriteAt([]byte("B"), 0); err == nil {
		t.Error("a detached body can still be written")
	}
	got := make([]byte, 4)
	if _, err := mem.ReadAt(got, 0); err != nil || !bytes.Equal(got, []byte("body")) {
		t.Errorf("read %q, %v", got, err)
	}
}
