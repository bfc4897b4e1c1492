package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"time"
)

// clientArgument makes this program the client side.
const clientArgument = "--client"

// The kinds of work.
const (
	keepAlive = "keepalive" // HTTP/1.1 requests over open connections
	multiplex = "multiplex" // HTTP/2 requests, many at a time on a few connections
	connect   = "connect"   // a connection for each request
	newNames  = "newnames"  // a connection for each request, each to a name never seen
	bulk      = "bulk"      // one large body
	plainBulk = "plainbulk" // large bodies without TLS
	dial      = "dial"      // connect() alone
	events    = "events"    // server-sent events
	idle      = "idle"      // open connections, one request on each, and wait
)

// A job is one measurement. The client answers "ready" when everything is set
// up and warm, waits for "go", and answers with a result.
type job struct {
	Kind        string
	Address     string // host:port to connect to
	Name        string // SNI and Host; the suffix of new names
	Issuer      string // how the common name of the leaf's issuer begins
	P256        bool   // agree on keys by P-256 instead of X25519
	Connections int
	Page        bool // keep-alive requests are for the page instead of the small body
	Streams     int  // on each connection of multiplex
	First       int  // number of the first new name
	Window      time.Duration
}

// A result is what the client saw. Requests, bytes, times are those of the
// window; All counts the requests before it as well.
type result struct {
	Error    string
	Requests int
	All      int
	Bytes    int64
	Wall     time.Duration
	P50, P99 time.Duration
	TLS      string // version, cipher suite, key of the certificate, ALPN
}

// A client is the other end of the conversation: a process of ours at a site,
// behind the gate or not.
type client struct {
	in   io.WriteCloser
	out  *bufio.Reader
	stop func()
}

// startPlainClient starts a client that nothing captures.
func (s *site) startPlainClient() (*client, error) {
	return s.machine.startClient(s.command("taskset", "-c", strconv.Itoa(s.machine.cpus[1]), "/srv/bin/bench", clientArgument))
}

func (m *machine) startClient(c *exec.Cmd) (*client, error) {
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stop, err := m.start(c, 2*time.Second)
	return &client{in, bufio.NewReader(out), stop}, err
}

// begin has the client set a job up; it returns when the client is warm.
func (c *client) begin(j job) error {
	if err := encode(c.in, j); err != nil {
		return err
	}
	var r result
	if err := c.read(&r); err != nil {
		return err
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return nil
}

// finish lets the client run the job.
func (c *client) finish() (r result, err error) {
	if _, err := io.WriteString(c.in, "go\n"); err != nil {
		return r, err
	}
	if err := c.read(&r); err != nil {
		return r, err
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

func (c *client) read(r *result) error {
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("the client ended: %w", err)
	}
	return json.Unmarshal(line, r)
}

// encode writes one message of the conversation with a client.
func encode(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
