package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
)

// sockProgram is the attacker of the bypass table, compiled once.
var sockProgram = sync.OnceValues(func() ([]byte, error) {
	return compileC("gcc", "../bypass/attacker/attacker.c", "-static")
})

// compileC compiles one C file.
func compileC(compiler, source string, flags ...string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "gate")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	args := append([]string{"-O1", "-Wall", "-Wextra", "-Werror", "-o", dir + "/a.out", source}, flags...)
	if out, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", compiler, source, err, out)
	}
	return os.ReadFile(dir + "/a.out")
}

const sockPath = "/srv/bin/sock"

// putSock puts the attacker on the host, as a program.
func (h *host) putSock() {
	h.t.Helper()
	program, err := sockProgram()
	if err != nil {
		h.t.Fatal(err)
	}
	h.putProgram(sockPath, program)
}

func (h *host) putProgram(path string, program []byte) {
	h.t.Helper()
	if err := os.WriteFile(h.path(path), program, 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// sock runs statements of the attacker in a workload and gives a line
// for each.
func (h *host) sock(cgroup string, uid int, statements ...string) []string {
	h.t.Helper()
	return h.sockLines(h.inside(cgroup, uid, append([]string{sockPath}, statements...)...))
}

func (h *host) sockLines(c *exec.Cmd) []string {
	h.t.Helper()
	r := h.run(c)
	if r.code != 0 || r.stderr != "" {
		h.t.Errorf("sock: %v", r)
	}
	return strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
}

// A sockProcess is a running the attacker that pauses now and then.
type sockProcess struct {
	h     *host
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	// said are the lines so far.
	said []string
}

// startSock starts the program and reads on to its first pause.
func (h *host) startSock(c *exec.Cmd, statements ...string) *sockProcess {
	h.t.Helper()
	c.Args = append(append(c.Args, sockPath), statements...)
	p := &sockProcess{h: h, cmd: c}
	var err error
	if p.stdin, err = c.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		p.stdin.Close()
		c.Process.Kill()
		c.Wait()
	})
	p.read("pause")
	return p
}

// read reads lines up to one of a statement, or to the end, and gives the last.
func (p *sockProcess) read(until string) string {
	p.h.t.Helper()
	for {
		line, err := p.out.ReadString('\n')
		if err != nil {
			return ""
		}
		line = strings.TrimSuffix(line, "\n")
		p.said = append(p.said, line)
		if word, _, _ := strings.Cut(line, " "); word == until {
			return line
		}
	}
}

// goOn ends a pause and reads on to the next one, or to the end.
func (p *sockProcess) goOn() {
	p.h.t.Helper()
	if _, err := io.WriteString(p.stdin, "\n"); err != nil {
		p.h.t.Fatalf("sock: %v", err)
	}
	p.read("pause")
}

// result gives what came of the last statement of a name, "" if it was not made.
func (p *sockProcess) result(statement string) string { return resultOf(p.said, statement) }

// resultOf gives what came of the last statement of a name in lines of sock.
func resultOf(lines []string, statement string) string {
	for _, line := range slices.Backward(lines) {
		if what, ok := strings.CutPrefix(line, statement+" "); ok {
			return what
		}
	}
	return ""
}
