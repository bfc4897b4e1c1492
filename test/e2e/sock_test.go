package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"sallyport/test/outside"
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

// putProgram puts a program on the host. Nobody forks meanwhile: until a child
// executes it has all that its parent has, and what somebody has open for writing
// cannot be executed (ETXTBSY).
func (h *host) putProgram(path string, program []byte) {
	h.t.Helper()
	syscall.ForkLock.RLock()
	err := os.WriteFile(h.path(path), program, 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
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

// A sockProcess is a running attacker that pauses now and then.
type sockProcess struct {
	*outside.Program
	h *host
}

// startSock starts the program and reads on to its first pause.
func (h *host) startSock(c *exec.Cmd, statements ...string) *sockProcess {
	h.t.Helper()
	c.Args = append(append(c.Args, sockPath), statements...)
	p := &sockProcess{outside.Start(h.t, c), h}
	p.Until("pause")
	return p
}

// goOn ends a pause and reads on to the next one, or to the end.
func (p *sockProcess) goOn() {
	p.h.t.Helper()
	if err := p.Tell(""); err != nil {
		p.h.t.Fatalf("sock: %v", err)
	}
	p.Until("pause")
}
