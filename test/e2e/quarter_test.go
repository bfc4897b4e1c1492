package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// newStream is an endless stream of bytes that do not repeat; equal seeds give
// equal streams, however they are read.
func newStream(seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// TestQuarterGigabyte: 256 MB up and down arrive intact, inspected and
// tunnelled, and the worker never holds them.
func TestQuarterGigabyte(t *testing.T) {
	const size = 256_000_000
	want := sha256.New()
	io.CopyN(want, newStream(9), size)
	sum := hex.EncodeToString(want.Sum(nil))
	for _, handling := range []string{"inspect", "tunnel"} {
		t.Run(handling, func(t *testing.T) {
			h := newHost(t)
			h.net.setHandler(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == "PUT" {
					seen := h.net.seen()
					fmt.Fprint(w, seen[len(seen)-1].BodySHA256)
					return
				}
				w.Header().Set("Content-Length", strconv.Itoa(size))
				io.CopyN(w, newStream(9), size)
			})
			policy := h.config(`
rules:
  - name: big
    match: { hosts: [api.example.com] }
    action: allow
    handling: ` + handling + `
`)
			// The command waits for a line, so that the worker is idle first.
			script := `read go && curl -sS https://api.example.com/down && read go && head -c ` + strconv.Itoa(size) + ` | curl -sS -T - -H 'Expect:' https://api.example.com/up >&2`
			c := h.command(h.exec(policy, "bash", "-c", script)...)
			stdin, err := c.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			got, stderr := &hashing{sum: sha256.New()}, &bytes.Buffer{}
			c.Stdout, c.Stderr = got, stderr
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			defer c.Process.Kill()
			worker := 0
			eventually(t, 5*time.Second, "a worker runs", func() bool { worker = h.workerPID(); return worker != 0 })
			eventually(t, 5*time.Second, "the command waits", func() bool { return commandOf(c.Process.Pid) == "bash" })
			idle := residentBytes(t, worker)
			ctx, cancel := context.WithCancel(context.Background())
			peak := make(chan int64)
			go func() {
				most := int64(0)
				for ctx.Err() == nil {
					most = max(most, residentBytes(t, worker))
					time.Sleep(10 * time.Millisecond)
				}
				peak <- most
			}()
			io.WriteString(stdin, "down\n")
			start := time.Now()
			eventually(t, 60*time.Second, "the download ends", func() bool { return got.bytes() == size || !stillRuns(c.Process.Pid) })
			down := time.Since(start)
			io.WriteString(stdin, "up\n")
			go func() {
				io.CopyN(stdin, newStream(9), size)
				stdin.Close()
			}()
			start = time.Now()
			err = c.Wait()
			cancel()
			most := <-peak
			if err != nil || got.bytes() != size || got.hex() != sum {
				t.Errorf("download: %d bytes, sha256 %s, want %d and %s: %v %s", got.bytes(), got.hex(), size, sum, err, stderr)
			}
			if !strings.Contains(stderr.String(), sum) {
				t.Errorf("upload: the origin read another body: %s", stderr)
			}
			if grown := most - idle; grown > 64<<20 {
				t.Errorf("the worker grew by %d MiB (from %d)", grown>>20, idle>>20)
			}
			t.Logf("%s: worker %d MiB idle, %d MiB at most; down %s, up %s", handling, idle>>20, most>>20, down.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
			if handling == "inspect" {
				e := h.waitAudit("the download", func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.HTTP.Path == "/down" })
				if e.HTTP.ResponseBytes != size {
					t.Errorf("audit: %d bytes", e.HTTP.ResponseBytes)
				}
			}
			h.waitAudit("what the kernel counted", func(e *audit.Event) bool {
				return e.Kind == audit.FlowClose && e.Counters.Workload.BytesReceived >= size
			})
		})
	}
}

// A hashing writer keeps the sum and the count of what it got.
type hashing struct {
	mu  sync.Mutex
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
	n int64
}

func (w *hashing) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n += int64(len(p))
	return w.sum.Write(p)
}

func (w *hashing) bytes() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

func (w *hashing) hex() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return hex.EncodeToString(w.sum.Sum(nil))
}

// workerPID finds the worker that serves this host, 0 if there is none.
func (h *host) workerPID() int {
	for _, p := range h.processes() {
		if p.role() == "worker" {
			return p.pid
		}
	}
	return 0
}

func commandOf(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(b))
}

func stillRuns(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// residentBytes reads VmRSS; 0 when the process is gone.
func residentBytes(t *testing.T, pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return kb << 10
		}
	}
	return 0
}
