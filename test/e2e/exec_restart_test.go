package e2e

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestExecAndRestart: a command of the daemon's ends with it, whether that was
// stopped or killed, and whoever called it is told so and what to do instead; one
// with a gate of its own goes on.
func TestExecAndRestart(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]unix.Signal{"stopped": unix.SIGTERM, "killed": unix.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			h, d := withDaemon(t)
			own := h.startInmate(h.binary, "exec", "--standalone", "--config", daemonConfig, "--", inmatePath)
			i := h.startInmate(as(alice, h.execBy(inmatePath)...)...)
			h.kill(d.pid, end)
			select {
			case <-i.ended:
			case <-time.After(40 * time.Second):
				t.Fatal("the wrapper waits for a command that has ended")
			}
			said := i.stderr.String()
			if i.cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(said, "sallyport: exec: the daemon ended or was restarted, and the command with it") || !strings.Contains(said, "--standalone") {
				t.Errorf("%v: %q", i.cmd.ProcessState, said)
			}
			<-d.ended
			if o := own.do("ask", originHTTP, originV4); !strings.Contains(o.Answer, "200") {
				t.Errorf("with a gate of its own: %+v", o)
			}
			own.stdin.Close()
			<-own.ended
			if code := own.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("with a gate of its own: exit %d", code)
			}
			eventually(t, goneAfter, "its keeper ends", func() bool { return len(h.processes()) == 0 })
		})
	}
}
