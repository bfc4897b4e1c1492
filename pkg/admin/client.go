package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sallyport/pkg/audit"
)

// ErrNotRunning: nobody answers on the socket.
var ErrNotRunning = errors.New("sallyport does not answer")

// ErrForbidden: the caller may not ask this.
var ErrForbidden = errors.New("not permitted")

// A Client asks over the unix socket.
type Client struct {
	socket string
	http   http.Client
}

// NewClient makes a client of a socket; it connects with the first question.
func NewClient(socket string) *Client {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	return &Client{socket: socket, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeadBytes,
		ResponseHeaderTimeout:  answerTimeout,
	}}}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for the status.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.ask(ctx, http.MethodGet, pathStatus, nil, nil, &s)
}

// Flows lists the open flows that pass the filter.
func (c *Client) Flows(ctx context.Context, f *audit.Filter) ([]Flow, error) {
	var list flowList
	err := c.ask(ctx, http.MethodGet, pathFlows, f.Values(), nil, &list)
	return list.Flows, err
}

// FollowFlows gives the open flows and then each that opens or closes, until
// ctx ends (its error), show returns an error (that), or sallyport ends
// (io.ErrUnexpectedEOF).
func (c *Client) FollowFlows(ctx context.Context, f *audit.Filter, show func(*Flow) error) error {
	query := f.Values()
	query.Set(paramFollow, "1")
	return c.stream(ctx, pathFlows, query, func(line []byte) error {
		var flow Flow
		if err := json.Unmarshal(line, &flow); err != nil {
			return fmt.Errorf("answer of sallyport: %w", err)
		}
		return show(&flow)
	})
}

// Tail gives up to recent of the newest audit lines that pass the filter, oldest
// first; with follow also each that is written from then on, and ends like
// FollowFlows. The line is valid until show returns.
func (c *Client) Tail(ctx context.Context, f *audit.Filter, recent int, follow bool, show func(line []byte, e *audit.Event) error) error {
	query := f.Values()
	query.Set(paramRecent, strconv.Itoa(recent))
	if follow {
		query.Set(paramFollow, "1")
	}
	err := c.stream(ctx, pathTail, query, func(line []byte) error {
		var e audit.Event
		if err := audit.Decode(line, &e); err != nil {
			return fmt.Errorf("answer of sallyport: %w", err)
		}
		return show(line, &e)
	})
	if !follow && errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// Reload applies the configuration file. Its mistakes are in Reloaded.Errors.
func (c *Client) Reload(ctx context.Context) (*Reloaded, error) {
	var r Reloaded
	return &r, c.ask(ctx, http.MethodPost, pathReload, nil, nil, &r)
}

// Explain asks for a decision and the way to it; a wrong question gives
// ErrBadRequest.
func (c *Client) Explain(ctx context.Context, q *ExplainRequest) (*Explanation, error) {
	var e Explanation
	return &e, c.ask(ctx, http.MethodPost, pathExplain, nil, q, &e)
}

// Ready is nil when sallyport is ready, else what is not.
func (c *Client) Ready(ctx context.Context) error {
	r, err := c.send(ctx, http.MethodGet, pathReady, nil, nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode == http.StatusOK {
		return nil
	}
	if r.StatusCode != http.StatusServiceUnavailable {
		return failed(r)
	}
	text, err := io.ReadAll(io.LimitReader(r.Body, maxBodyBytes))
	if err != nil {
		return err
	}
	return errors.New(string(bytes.TrimSpace(text)))
}

// maxAnswer bounds what a client keeps of one answer.
const maxAnswer = 64 << 20

func (c *Client) ask(ctx context.Context, method, path string, query url.Values, question, answer any) error {
	r, err := c.send(ctx, method, path, query, question)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	// 422 is the answer of a reload that found mistakes.
	if r.StatusCode != http.StatusOK && r.StatusCode != http.StatusUnprocessableEntity {
		return failed(r)
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, maxAnswer)).Decode(answer); err != nil {
		return fmt.Errorf("answer of sallyport: %w", err)
	}
	return nil
}

func (c *Client) stream(ctx context.Context, path string, query url.Values, show func([]byte) error) error {
	r, err := c.send(ctx, http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return failed(r)
	}
	lines := bufio.NewScanner(r.Body)
	lines.Buffer(make([]byte, 64<<10), audit.MaxLine)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue // a heartbeat
		}
		if err := show(lines.Bytes()); err != nil {
			return err
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case lines.Err() != nil:
		return fmt.Errorf("%w any more: %w", ErrNotRunning, lines.Err())
	}
	return io.ErrUnexpectedEOF
}

func (c *Client) send(ctx context.Context, method, path string, query url.Values, question any) (*http.Response, error) {
	var body io.Reader
	if question != nil {
		b, err := json.Marshal(question)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	at := url.URL{Scheme: "http", Host: "sallyport", Path: path, RawQuery: query.Encode()}
	q, err := http.NewRequestWithContext(ctx, method, at.String(), body)
	if err != nil {
		return nil, err
	}
	if question != nil {
		q.Header.Set("Content-Type", typeJSON)
	}
	r, err := c.http.Do(q)
	if err == nil {
		return r, nil
	}
	var wrapped *url.Error // names a URL that means nothing to the user
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: there is no socket %s; is it running?", ErrNotRunning, c.socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nobody listens on %s; start it", ErrNotRunning, c.socket)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %s is for root and the group of admin.group; use sudo or join the group", ErrForbidden, c.socket)
	}
	return nil, fmt.Errorf("%w: %w", ErrNotRunning, err)
}

// failed reads an answer that is no success.
func failed(r *http.Response) error {
	var f failure
	if err := json.NewDecoder(io.LimitReader(r.Body, maxBodyBytes)).Decode(&f); err != nil || f.Error == "" {
		f.Error = r.Status
	}
	switch r.StatusCode {
	case http.StatusForbidden:
		return fmt.Errorf("%w: %s", ErrForbidden, f.Error)
	case http.StatusBadRequest:
		return fmt.Errorf("%w: %s", ErrBadRequest, strings.TrimPrefix(f.Error, ErrBadRequest.Error()+": "))
	}
	return errors.New(f.Error)
}
