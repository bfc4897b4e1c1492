package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// inmateProgram is testdata/inmate, built once.
var inmateProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "inmate")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c := exec.Command("go", "build", "-o", dir+"/inmate", "./testdata/inmate")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build inmate: %w: %s", err, out)
	}
	return os.ReadFile(dir + "/inmate")
})

// inmatePath is where putInmate puts the program.
const inmatePath = "/srv/bin/inmate"

// putInmate puts testdata/inmate on the host.
func (h *host) putInmate() string {
	h.t.Helper()
	program, err := inmateProgram()
	if err != nil {
		h.t.Fatal(err)
	}
	h.putProgram(inmatePath, program)
	return inmatePath
}

// An inmate is a running testdata/inmate that waits for orders.
type inmate struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr *bytes.Buffer
	// pid is its own word, which is true: nothing here has a pid namespace.
	pid int
	// ended is closed when the process that the test started has been waited for.
	ended chan struct{}
}

// outcome is what came of an order (testdata/inmate).
type outcome struct {
	Step, Errno, Err, Answer string
	Took                     float64
}

// startInmate starts a command line that ends in testdata/inmate.
func (h *host) startInmate(argv ...string) *inmate {
	h.t.Helper()
	c := h.command(argv...)
	i := &inmate{t: h.t, cmd: c, stderr: &bytes.Buffer{}, ended: make(chan struct{})}
	c.Stderr = i.stderr
	var err error
	if i.stdin, err = c.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	// A pipe of our own: Wait must not close it under the reader.
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	c.Stdout = w
	i.stdout = bufio.NewReader(r)
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	w.Close()
	go func() { c.Wait(); close(i.ended) }()
	h.t.Cleanup(func() {
		i.stdin.Close()
		select {
		case <-i.ended:
		case <-time.After(30 * time.Second):
			c.Process.Kill()
			<-i.ended
		}
		r.Close()
	})
	var hello struct{ PID int }
	line, err := i.stdout.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &hello)
	}
	if err != nil {
		<-i.ended
		h.t.Fatalf("start inmate: %v, %q: %s", err, line, i.stderr)
	}
	i.pid = hello.PID
	return i
}

// order gives an order and does not wait.
func (i *inmate) order(words ...string) {
	i.t.Helper()
	if _, err := io.WriteString(i.stdin, strings.Join(words, " ")+"\n"); err != nil {
		i.t.Fatalf("order %v: %v: %s", words, err, i.stderr)
	}
}

// outcome waits for what came of the last order.
func (i *inmate) outcome() outcome {
	i.t.Helper()
	line, err := i.stdout.ReadBytes('\n')
	var o outcome
	if err == nil {
		err = json.Unmarshal(line, &o)
	}
	if err != nil {
		i.t.Fatalf("inmate: %v, %q: %s", err, line, i.stderr)
	}
	return o
}

// do gives an order and waits for what comes of it.
func (i *inmate) do(words ...string) outcome {
	i.t.Helper()
	i.order(words...)
	return i.outcome()
}
