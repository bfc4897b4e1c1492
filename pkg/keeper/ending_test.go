package keeper

import (
	"io"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestEnding: a signal reaches the process while it lives, and nobody once its
// number may be another's.
func TestEnding(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	waited, end := make(chan struct{}), &ending{}
	if err := startAndWait(cmd, waited, end); err != nil {
		t.Fatal(err)
	}
	end.kill(cmd.Process.Pid, unix.SIGTERM)
	select {
	case <-waited:
	case <-time.After(30 * time.Second):
		cmd.Process.Kill()
		t.Fatal("the signal did not arrive")
	}
	// Another process stands for the one that got the number. One that is killed
	// answers nothing any more.
	other := exec.Command("cat")
	stdin, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()
	end.kill(other.Process.Pid, unix.SIGKILL)
	answer := make([]byte, 1)
	if _, err := stdin.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(stdout, answer); err != nil {
		t.Errorf("a process that has nothing to do with the command was killed: %v", err)
	}
}

// TestCallersShare: one user has not more than its share, root has all.
func TestCallersShare(t *testing.T) {
	var c callers
	for range commandsPerUser {
		if !c.take(1000) {
			t.Fatal("refused within the share")
		}
	}
	if c.take(1000) {
		t.Error("beyond the share")
	}
	if !c.take(1001) {
		t.Error("another user is refused")
	}
	for range maxCommands {
		if !c.take(0) {
			t.Fatal("root is refused")
		}
	}
	c.give(1000)
	if !c.take(1000) {
		t.Error("what was given back cannot be taken")
	}
}
