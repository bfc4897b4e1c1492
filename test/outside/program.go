package outside

import (
	"bufio"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A Program is one that a test has started and that it talks with line by line.
type Program struct {
	Cmd *exec.Cmd
	In  io.WriteCloser
	// Out is what it says from here on.
	Out *bufio.Reader
	// Said are the lines that Line and Until have read.
	Said []string
}

// Start starts a program, which ends with the test at the latest.
func Start(t testing.TB, c *exec.Cmd) *Program {
	t.Helper()
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Program{Cmd: c, Out: bufio.NewReader(out), In: in}
	t.Cleanup(p.End)
	return p
}

// Tell gives it a line to read.
func (p *Program) Tell(line string) error {
	_, err := io.WriteString(p.In, line+"\n")
	return err
}

// Line reads a line; it fails at the end, also where the last line has none.
func (p *Program) Line() (string, error) {
	line, err := p.Out.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\n")
	p.Said = append(p.Said, line)
	return line, nil
}

// Until reads lines up to one of a statement, and gives it; "" if it ends before.
func (p *Program) Until(statement string) string {
	for {
		line, err := p.Line()
		if err != nil {
			return ""
		}
		if word, _, _ := strings.Cut(line, " "); word == statement {
			return line
		}
	}
}

// Result is ResultOf what it has said so far.
func (p *Program) Result(statement string) string { return ResultOf(p.Said, statement) }

// End kills it and waits for it.
func (p *Program) End() {
	p.In.Close()
	p.Cmd.Process.Kill()
	p.Cmd.Wait()
}

// ResultOf gives what came of the last statement of a name in the lines of the
// bypass table's attacker, "" if it was not made.
func ResultOf(lines []string, statement string) string {
	for _, line := range slices.Backward(lines) {
		if what, ok := strings.CutPrefix(line, statement+" "); ok {
			return what
		}
	}
	return ""
}
