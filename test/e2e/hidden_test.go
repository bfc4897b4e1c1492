package e2e

import (
	"bufio"
	"fmt"
	"strings"
	"testing"
	"time"
)

const engineSocket = "/run/docker.sock"

// engine plays a container engine: it listens until it is killed.
const engine = `
import os, socket, sys
path = sys.argv[1]
if os.path.exists(path): os.unlink(path)
s = socket.socket(socket.AF_UNIX)
s.bind(path)
os.chmod(path, 0o777)
s.listen()
print("listening", flush=True)
while True: s.accept()
`

// knocker tries the socket each time that it is told to.
const knocker = `
import os, socket, sys
for line in sys.stdin:
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(sys.argv[1])
        print("connected", flush=True)
    except OSError as e:
        print(e.strerror, flush=True)
    s.close()
`

// orphaned is a knocker of which only another thread than the first lives: /proc
// shows no namespaces of its first.
const orphaned = `
import ctypes, os, threading, time
def knock():
    while open("/proc/self/stat").read().split()[2] != "Z": time.sleep(0.001)
    exec(source)
source = """` + knocker + `"""
threading.Thread(target=knock).start()
ctypes.CDLL(None).syscall(60, 0)
`

// TestSocketsStayHidden: an engine that starts, or starts again, after the
// command does not come into its sight for longer than a moment, whatever becomes
// of the command's first thread.
func TestSocketsStayHidden(t *testing.T) {
	t.Parallel()
	for name, program := range map[string]string{"whole": knocker, "first thread ended": orphaned} {
		t.Run(name, func(t *testing.T) { staysHidden(t, program) })
	}
}

func staysHidden(t *testing.T, program string) {
	h := newHost(t)
	listen := func() (stop func()) {
		t.Helper()
		cmd := h.command("python3", "-c", engine, engineSocket)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stop = func() { cmd.Process.Kill(); cmd.Wait() }
		t.Cleanup(stop)
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "listening\n" {
			t.Fatalf("engine: %q, %v", line, err)
		}
		return stop
	}
	stop := listen()
	cmd := h.command(h.exec("", "python3", "-u", "-c", program, engineSocket)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	answers := bufio.NewReader(out)
	knock := func() string {
		t.Helper()
		fmt.Fprintln(in)
		line, err := answers.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(line)
	}
	if got := knock(); got != "Connection refused" {
		t.Fatalf("at the start: %s", got)
	}
	stop()
	if r := h.run(h.command("rm", engineSocket)); r.code != 0 {
		t.Fatal(r)
	}
	listen()
	if r := h.run(h.command("python3", "-c", strings.Replace(knocker, "for line in sys.stdin", "for line in ['']", 1), engineSocket)); r.stdout != "connected\n" {
		t.Fatalf("the host itself: %v", r)
	}
	eventually(t, 20*time.Second, "the engine that started again is hidden", func() bool { return knock() == "Connection refused" })
}
