package bypass

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"sallyport/test/outside"
)

// An identity is whose the attack is.
type identity struct {
	uid int
	nnp bool
}

func (i identity) String() string {
	if i.nnp {
		return fmt.Sprintf("uid %d, no_new_privs", i.uid)
	}
	return fmt.Sprintf("uid %d", i.uid)
}

// become gives the statements by which the attacker turns into that identity.
func (i identity) become() []string {
	var s []string
	if i.uid != 0 {
		s = append(s, "become "+strconv.Itoa(i.uid))
	}
	if i.nnp {
		s = append(s, "nnp")
	}
	return s
}

// outside prepares the attacker on the host, in no cgroup of ours.
func (h *host) outside(who identity, statements ...string) *exec.Cmd {
	return h.program(nil, append(who.become(), statements...))
}

// inside prepares the attacker in a cgroup below the slice: a workload that
// nothing but the two locks confines. What comes first is done outside.
func (h *host) inside(cgroup string, who identity, first []string, statements ...string) *exec.Cmd {
	h.t.Helper()
	in := append([]string{"in " + h.below(cgroup)}, who.become()...)
	return h.program(first, append(in, statements...))
}

func (h *host) program(first, then []string) *exec.Cmd {
	args := append([]string{"enter " + strconv.Itoa(h.pid)}, first...)
	c := exec.Command(h.attacker, append(args, then...)...)
	c.Env = []string{"HOME=/srv/home", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "SALLYPORT_SLOWER=" + strconv.Itoa(slower())}
	c.WaitDelay = 5 * time.Second
	return c
}

// sallyport prepares the binary, as root and untagged.
func (h *host) sallyport(args ...string) *exec.Cmd {
	return h.program(nil, append([]string{"run " + sallyportPath}, args...))
}

// unprepared is what an attacker exits with that did not come to its attack
// (fail_unless of attacker/base.h).
const unprepared = 99

// lines runs an attacker to its end, at most half a minute, and gives what it said.
// One that made no attack fails the test: nothing of it would have come anywhere.
func (h *host) lines(c *exec.Cmd) []string {
	h.t.Helper()
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Start(); err != nil {
		h.t.Errorf("an attacker was not started: %v", err)
		return nil
	}
	kill := time.AfterFunc(patient(30*time.Second), func() { c.Process.Kill() })
	defer kill.Stop()
	c.Wait()
	if c.ProcessState.ExitCode() == unprepared {
		h.t.Errorf("an attack was not prepared: %q: %s%s", c.Args[1:], &stdout, &stderr)
	}
	return strings.Split(strings.TrimSpace(stdout.String()+stderr.String()), "\n")
}

// resultOf gives what came of the last statement of a name, "" if it was not made.
func resultOf(lines []string, statement string) string { return outside.ResultOf(lines, statement) }

// A running attacker pauses now and then.
type running struct{ *outside.Program }

// start starts an attacker and reads on to its first pause.
func (h *host) start(c *exec.Cmd) *running {
	h.t.Helper()
	c.Stderr = os.Stderr
	p := &running{outside.Start(h.t, c)}
	if p.read("pause") == "" {
		h.t.Errorf("an attacker ended before its first pause: %q", p.Said)
	}
	return p
}

func (p *running) end() { p.End() }

// read reads lines up to one of a statement, or to the end, and gives the last.
func (p *running) read(until string) string { return p.Until(until) }

// tell ends a pause.
func (p *running) tell() { p.Tell("") }

// goOn ends a pause and reads on to the next one, or to the end.
func (p *running) goOn() {
	p.tell()
	p.read("pause")
}

func (p *running) result(statement string) string { return p.Result(statement) }
