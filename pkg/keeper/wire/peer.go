package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
)

// maxServing bounds how many calls of the peer are answered at a time; more
// wait in the socket, which in turn stops the peer.
const maxServing = 16

// maxCalls bounds our own calls that wait for a reply.
const maxCalls = 1024

// A Handler answers one call. The files of the message are the handler's to
// close; those it returns are closed once they have been sent.
type Handler func(ctx context.Context, m *Message) (result any, files []*os.File, err error)

// A Peer makes and answers calls on one Conn.
type Peer struct {
	conn     *Conn
	handlers map[string]Handler

	mu    sync.Mutex
	next  uint64
	calls map[uint64]chan *Message
	gone  error
}

// NewPeer prepares a peer; Run starts it. An unknown method is answered with
// an error.
func NewPeer(c *Conn, handlers map[string]Handler) *Peer {
	return &Peer{conn: c, handlers: handlers, calls: make(map[uint64]chan *Message)}
}

// ErrGone says that the other process is not there any more.
var ErrGone = errors.New("wire: the other process has gone")

// Run reads messages until the connection or the context ends, and waits for
// the handlers that it started.
func (p *Peer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { p.conn.Close() })
	defer stop()
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	slots := make(chan struct{}, maxServing)
	for {
		m, err := p.conn.Receive()
		if err != nil {
			p.fail(fmt.Errorf("%w: %w", ErrGone, err))
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%w: %w", ErrGone, err)
		}
		if m.Method == "" {
			p.deliver(m)
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			m.CloseFiles()
			continue
		}
		serving.Go(func() {
			defer func() { <-slots }()
			p.serve(ctx, m)
		})
	}
}

// serve answers one call or takes one notice.
func (p *Peer) serve(ctx context.Context, m *Message) {
	h := p.handlers[m.Method]
	if h == nil {
		m.CloseFiles()
		h = func(context.Context, *Message) (any, []*os.File, error) {
			return nil, nil, fmt.Errorf("unknown method %q", m.Method)
		}
	}
	result, files, err := h(ctx, m)
	if m.ID != 0 {
		reply := &Message{ID: m.ID, Files: files}
		if err != nil {
			reply.Error = err.Error()
			result = nil
		}
		serr := p.conn.Send(reply, result)
		if errors.Is(serr, ErrEncode) || errors.Is(serr, ErrTooLarge) {
			// The fault of this answer alone: whoever asked hears of it.
			reply.Files = nil
			reply.Error = serr.Error()
			serr = p.conn.Send(reply, nil)
		}
		if serr != nil && ctx.Err() == nil {
			p.conn.Close()
		}
	}
	for _, f := range files {
		f.Close()
	}
}

// deliver hands a reply to the call that waits for it.
func (p *Peer) deliver(m *Message) {
	p.mu.Lock()
	ch := p.calls[m.ID]
	delete(p.calls, m.ID)
	p.mu.Unlock()
	if ch == nil {
		m.CloseFiles()
		return
	}
	ch <- m
}

// fail ends every waiting call.
func (p *Peer) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = err
	for id, ch := range p.calls {
		delete(p.calls, id)
		close(ch)
	}
}

// A RemoteError is what the other process answered.
type RemoteError struct{ Method, Text string }

func (e *RemoteError) Error() string { return e.Text }

// Call sends arg and files, waits for the reply and decodes it into result
// (which may be nil). The descriptors of the reply are returned; the caller
// closes them. It fails with ErrGone, a *RemoteError or the context's error.
func (p *Peer) Call(ctx context.Context, method string, arg any, files []*os.File, result any) ([]*os.File, error) {
	ch := make(chan *Message, 1)
	p.mu.Lock()
	if p.gone != nil || len(p.calls) >= maxCalls {
		err := p.gone
		p.mu.Unlock()
		if err == nil {
			err = errors.New("wire: too many calls wait for the other process")
		}
		return nil, err
	}
	p.next++
	id := p.next
	p.calls[id] = ch
	p.mu.Unlock()
	if err := p.conn.Send(&Message{ID: id, Method: method, Files: files}, arg); err != nil {
		p.forget(id)
		return nil, err
	}
	select {
	case m, ok := <-ch:
		if !ok {
			return nil, ErrGone
		}
		return p.finish(m, method, result)
	case <-ctx.Done():
		p.forget(id)
		return nil, ctx.Err()
	}
}

func (p *Peer) finish(m *Message, method string, result any) ([]*os.File, error) {
	if m.Error != "" {
		m.CloseFiles()
		return nil, &RemoteError{Method: method, Text: m.Error}
	}
	if result != nil {
		if err := m.Decode(result); err != nil {
			m.CloseFiles()
			return nil, err
		}
	}
	return m.Files, nil
}

func (p *Peer) forget(id uint64) {
	p.mu.Lock()
	delete(p.calls, id)
	p.mu.Unlock()
}

// Notify sends a message that wants no reply.
func (p *Peer) Notify(method string, arg any, files ...*os.File) error {
	return p.conn.Send(&Message{Method: method, Files: files}, arg)
}
