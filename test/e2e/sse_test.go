package e2e

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// serveStreams answers with streams of events: /events?n=N&every=MS each tells
// when it was sent, /gzip the same compressed, /unframed with no end but that of
// the connection.
func (n *internet) serveStreams() {
	n.setHandler(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		count, _ := strconv.Atoi(q.Get("n"))
		every, _ := time.ParseDuration(q.Get("every"))
		out, flush := io.Writer(w), http.NewResponseController(w).Flush
		w.Header().Set("Content-Type", "text/event-stream")
		switch r.URL.Path {
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			zip := gzip.NewWriter(w)
			defer zip.Close()
			out, flush = zip, func() error { zip.Flush(); return http.NewResponseController(w).Flush() }
		case "/unframed":
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
			out, flush = c, func() error { return nil }
		}
		for i := range count {
			fmt.Fprintf(out, "id: %d\n", i)
			flush() // in small pieces, too
			fmt.Fprintf(out, "data: %.6f\n\n", float64(time.Now().UnixMicro())/1e6)
			if flush() != nil {
				return
			}
			time.Sleep(every)
		}
	})
}

// TestServerSentEvents: each event is there as soon as it was sent, by curl -N,
// in the clear, over TLS, compressed and unframed.
func TestServerSentEvents(t *testing.T) {
	h := newHost(t)
	h.net.serveStreams()
	// curl -N gives each event to the reader behind it, which knows how late it is.
	h.write("/srv/late.py", `
import sys, time
late, ids = [], 0
for line in sys.stdin:
    if line.startswith('id: '):
        assert line == f'id: {ids}\n', line
        ids += 1
    if line.startswith('data: '):
        late.append((time.time() - float(line[6:])) * 1000)
late.sort()
print(ids, '%.2f %.2f' % (late[len(late) // 2], late[len(late) * 99 // 100]))
`)
	conf := h.config(webRules)
	const tries = 3 // what holds events back is so each time, a busy machine is not
	for _, c := range []struct{ url, options string }{
		{"http://api.example.com/events", ""}, {"https://api.example.com/events", ""},
		{"https://api.example.com/gzip", "--compressed"}, {"https://api.example.com/unframed", ""}, {"http://api.example.com/unframed", ""},
	} {
		line := fmt.Sprintf("curl -sSN %s '%s?n=300&every=3ms' | python3 /srv/late.py", c.options, c.url)
		var late []float64
		for len(late) < tries {
			r := h.run(h.command(h.exec(conf, "bash", "-o", "pipefail", "-c", line)...))
			var ids int
			var p50, p99 float64
			if _, err := fmt.Sscanf(r.stdout, "%d %f %f", &ids, &p50, &p99); err != nil || ids != 300 || r.code != 0 {
				t.Errorf("%s: %v", line, r)
				break
			}
			t.Logf("%s %s: half of the events within %.2f ms, 99 of 100 within %.2f ms", c.url, c.options, p50, p99)
			if p50 <= 10 {
				break
			}
			late = append(late, p50)
		}
		if len(late) == tries {
			t.Errorf("%s: half of the events came more than %.2f ms after they were sent", c.url, late)
		}
	}
}

// TestLongStream: a stream of tens of thousands of events leaves the worker as
// big as it was after the first ones.
func TestLongStream(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.serveStreams()
	d := h.startDaemon(h.config(webRules))
	const all = 60_000
	// What it has got is in a file: a busy machine takes long to begin.
	c := h.command(h.execBy("bash", "-c", fmt.Sprintf(`curl -sSN 'https://api.example.com/events?n=%d&every=0s' | awk '/^data:/ { if (++n %% 1000 == 0) { print n > "/srv/count"; close("/srv/count") } } END { print n > "/srv/count" }'`, all))...)
	got := func() int {
		n, _ := strconv.Atoi(strings.TrimSpace(h.read("/srv/count")))
		return n
	}
	sized := func() (kb int64) {
		for _, pid := range append(childrenOf(d.pid), d.pid) {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(b)) {
				if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
					n, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
					kb += n
				}
			}
		}
		return kb
	}
	done := make(chan result, 1)
	go func() { done <- h.run(c) }()
	var early, most int64
	var r result
	for ended := false; !ended; {
		select {
		case r = <-done:
			ended = true
		case <-time.After(20 * time.Millisecond):
			switch {
			case early > 0:
				most = max(most, sized())
			case got() >= all/6:
				early = sized()
			}
		}
	}
	if n := got(); n != all || r.code != 0 {
		t.Fatalf("%d events: %v", n, r)
	}
	e := h.waitAudit("the stream", func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.HTTP.Path == "/events" })
	t.Logf("%d events and %d bytes in %v; anonymous memory of all of sallyport: %d kB early, at most %d kB", all, e.HTTP.ResponseBytes, e.Duration.Total.Round(time.Millisecond), early, most)
	if early == 0 || most == 0 {
		t.Fatal("the stream was too short to look at")
	}
	if most-early > 12<<10 {
		t.Errorf("anonymous memory grew from %d kB to %d kB", early, most)
	}
}

// childrenOf gives the processes that a process has started, and theirs.
func childrenOf(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for _, f := range strings.Fields(string(b)) {
			child, _ := strconv.Atoi(f)
			all = append(append(all, child), childrenOf(child)...)
		}
	}
	return all
}
