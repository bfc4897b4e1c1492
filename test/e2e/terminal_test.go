package e2e

import (
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestExecTerminal: the command's terminal is the caller's, with its job
// control.
func TestExecTerminal(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := h.terminal("bash", "--norc", "--noprofile", "--noediting", "-i")
	p.line("PS1='%''% '; stty -echo; cd /srv")
	p.expect("%% ", 10*time.Second)
	run := strings.Join(h.exec("", ""), " ")
	p.line(run + `bash -c 'test -t 0 && test -t 1 && test -t 2 && stty size && echo is-a-terminal'`)
	if got := p.expect("%% ", 10*time.Second); !strings.Contains(got, "33 99") || !strings.Contains(got, "is-a-terminal") {
		t.Errorf("terminal: %q", got)
	}
	p.line(run + "sleep 1000")
	eventually(t, 10*time.Second, "sleep runs", func() bool { return h.runs("sleep 1000") })
	p.write("\x1a")
	if got := p.expect("%% ", 5*time.Second); !strings.Contains(got, "Stopped") {
		t.Errorf("Ctrl-Z: %q", got)
	}
	p.line("jobs -l")
	if got := p.expect("%% ", 5*time.Second); !strings.Contains(got, "Stopped") {
		t.Errorf("jobs: %q", got)
	}
	p.line("fg")
	p.expect("sleep 1000", 5*time.Second)
	eventually(t, 5*time.Second, "sleep goes on", func() bool {
		for _, q := range h.processes() {
			if strings.Join(q.argv, " ") == "sleep 1000" {
				return strings.HasPrefix(procStatus(q.pid)["State"], "S")
			}
		}
		return false
	})
	p.write("\x03")
	p.expect("%% ", 5*time.Second)
	p.line("echo status $?")
	if got := p.expect("%% ", 5*time.Second); !strings.Contains(got, "status 130") {
		t.Errorf("Ctrl-C: %q", got)
	}
}

// runs reports whether a process with this command line runs on the host.
func (h *host) runs(line string) bool {
	return slices.ContainsFunc(h.processes(), func(p hostProcess) bool { return strings.Join(p.argv, " ") == line })
}

// A terminal is the person's end of a pseudo terminal.
type terminal struct {
	t      *testing.T
	master *os.File
	mu     sync.Mutex
	seen   strings.Builder
	from   int
}

// terminal runs a command line with a terminal of 33 rows and 99 columns that
// controls it.
func (h *host) terminal(argv ...string) *terminal {
	h.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	p := &terminal{t: h.t, master: master}
	var n int
	p.control(func(fd int) (err error) {
		if n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN); err != nil {
			return err
		}
		return unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	})
	p.size(33, 99)
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer slave.Close()
	if err := os.Chmod(slave.Name(), 0o666); err != nil { // as its user's own
		h.t.Fatal(err)
	}
	c := h.command(argv...)
	c.Stdin, c.Stdout, c.Stderr = slave, slave, slave
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			p.mu.Lock()
			p.seen.Write(buf[:n])
			p.mu.Unlock()
		}
	}()
	h.t.Cleanup(func() {
		unix.Kill(-c.Process.Pid, unix.SIGKILL)
		c.Wait()
		master.Close()
		<-ended
	})
	return p
}

// control calls f with the master's number, which stays one that waits for nothing:
// whoever reads from it ends when it is closed, and reads from nothing else.
func (p *terminal) control(f func(fd int) error) {
	p.t.Helper()
	raw, err := p.master.SyscallConn()
	if err != nil {
		p.t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	if err := errors.Join(err, failed); err != nil {
		p.t.Fatalf("terminal: %v", err)
	}
}

// size tells the command of the window.
func (p *terminal) size(rows, columns uint16) {
	p.t.Helper()
	p.control(func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
}

func (p *terminal) write(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.master, s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *terminal) line(s string) { p.t.Helper(); p.write(s + "\n") }

// expect waits for a text beyond what earlier calls returned, and gives all up
// to it.
func (p *terminal) expect(text string, within time.Duration) string {
	p.t.Helper()
	var got string
	for start := time.Now(); ; {
		p.mu.Lock()
		got = p.seen.String()[p.from:]
		i := strings.Index(got, text)
		if i >= 0 {
			p.from += i + len(text)
		}
		p.mu.Unlock()
		if i >= 0 {
			return got[:i+len(text)]
		}
		if late(start, within) {
			p.t.Fatalf("terminal: no %q within %s in %q", text, time.Since(start).Round(time.Millisecond), got)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestDaemonExecTerminal: the command's terminal is the caller's: Ctrl-C,
// Ctrl-Z and fg, and the window's size.
func TestDaemonExecTerminal(t *testing.T) {
	t.Parallel()
	h, _ := withDaemon(t)
	p := h.terminal(as(alice, "bash", "--norc", "--noprofile", "--noediting", "-i")...)
	p.line("PS1='%''% '; stty -echo")
	p.expect("%% ", 10*time.Second)
	run := strings.Join(h.execBy(), " ") + " "
	p.line(run + `bash -c 'test -t 0 && test -t 1 && test -t 2 && stty size && echo is-a-terminal'`)
	if got := p.expect("%% ", 10*time.Second); !strings.Contains(got, "33 99") || !strings.Contains(got, "is-a-terminal") {
		t.Errorf("terminal: %q", got)
	}
	// Input from the terminal reaches the command.
	p.line(run + `bash -c 'read line; echo "got <$line>"'`)
	time.Sleep(10 * time.Millisecond)
	p.line("hello there")
	if got := p.expect("%% ", 10*time.Second); !strings.Contains(got, "got <hello there>") {
		t.Errorf("input: %q", got)
	}
	// Without a trap bash goes on where sleep had ended by itself when SIGINT came.
	p.line(run + `bash -c 'trap "stty size" WINCH; trap "exit 130" INT; echo waiting; while :; do sleep 0.05; done'`)
	p.expect("waiting", 10*time.Second)
	p.size(44, 88)
	p.expect("44 88", 5*time.Second)
	p.write("\x03")
	p.expect("%% ", 5*time.Second)
	p.line(run + "sleep 1000")
	var pid int
	find := func() bool {
		for _, q := range h.processes() {
			if strings.Join(q.argv, " ") == "sleep 1000" {
				pid = q.pid
				return true
			}
		}
		return false
	}
	state := func(want string) func() bool {
		return func() bool { return strings.HasPrefix(procStatus(pid)["State"], want) }
	}
	eventually(t, 10*time.Second, "sleep runs", find)
	p.write("\x1a")
	if got := p.expect("%% ", 5*time.Second); !strings.Contains(got, "Stopped") {
		t.Errorf("Ctrl-Z: %q", got)
	}
	eventually(t, 5*time.Second, "the command stops", state("T"))
	p.line("fg")
	eventually(t, 5*time.Second, "the command goes on", state("S"))
	p.write("\x03")
	p.expect("%% ", 5*time.Second)
	p.line("echo status $?")
	if got := p.expect("%% ", 5*time.Second); !strings.Contains(got, "status 130") {
		t.Errorf("Ctrl-C: %q", got)
	}
}
