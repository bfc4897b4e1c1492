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
	keepAlive = "keepalive" // requests over open connections
	connect   = "connect"   // a connection for each request
	bulk      = "bulk"      // one large body
	idle      = "idle"      // open connections, one request on each, and wait
)

// A job is one measurement. The client answers "ready" when everything is set
// up and warm, waits for "go", and answers with a result.
type job struct {
	Kind        string
	Address     string // host:port to connect to
	Name        string // SNI and Host
	Connections int
	Window      time.Duration
}

// A result is what the client saw.
type result struct {
	Error    string
	Requests int
	Bytes    int64
	Wall     time.Duration
	P50, P99 time.Duration
}

// A client is the other end of the conversation: a process of ours on the
// host, behind the gate or not.
type client struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func (m *machine) startClients() (err error) {
	cpu := strconv.Itoa(m.cpus[1])
	self := "/srv/bin/bench"
	if m.plain, err = m.startClient(m.command("taskset", "-c", cpu, self, clientArgument)); err != nil {
		return err
	}
	m.tagged, err = m.startClient(m.command("/srv/bin/sallyport", "exec", "--config", configPath, "--workload", "bench", "--", "taskset", "-c", cpu, self, clientArgument))
	return err
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
	if err := m.start(c, 2*time.Second); err != nil {
		return nil, err
	}
	return &client{in, bufio.NewReader(out)}, nil
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
