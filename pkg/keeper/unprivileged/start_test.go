package unprivileged

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestUnprivileged: what is started so has no capability, cannot gain one,
// changes no file and makes no socket that nothing of ours sees. The files that
// it tries are its own user's.
func TestUnprivileged(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it gives capabilities up")
	}
	const uid = 65519 // of no account
	dir, err := os.MkdirTemp("", "unprivileged")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, file} {
		if err := os.Chown(name, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	run := func(script string) string {
		t.Helper()
		var out bytes.Buffer
		// Pipes: the thread cannot open files for the output itself.
		cmd := exec.Command("sh", "-c", script, "sh", dir, file)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if err := Start(cmd); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		return out.String()
	}
	status := run("cat /proc/self/status")
	for _, want := range []string{"CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in:\n%s", want, status)
		}
	}
	if out := run("cat /proc/self/timerslack_ns"); out != "1000000\n" {
		t.Errorf("timer slack: %q", out)
	}
	for what, script := range map[string]string{
		"make a file":   `echo x > "$1/new"`,
		"write a file":  `echo x >> "$2"`,
		"remove a file": `rm -f "$2"`,
		"make a dir":    `mkdir "$1/dir"`,
		"signal us":     `kill -0 1; kill -0 $PPID && echo signalled`,
	} {
		out := run(script)
		if strings.Contains(out, "signalled") {
			t.Errorf("%s: %s", what, out)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "before" {
		t.Errorf("the file is %q, %v", text, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v", entries, err)
	}
	if out := run(`cat "$2"`); out != "before" {
		t.Errorf("reading: %q", out)
	}
}
