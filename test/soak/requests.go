package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// A wire is an http.Client with one connection at a time, which can be torn.
type wire struct {
	client *http.Client
	mu     sync.Mutex
	conns  []net.Conn
	// tears counts how often. Streams beside the one that did it break too.
	tears int
}

func (l *load) newWire(change func(*http.Transport)) *wire {
	x := &wire{}
	t := &http.Transport{MaxConnsPerHost: 1, Protocols: new(http.Protocols), DisableCompression: true}
	t.Protocols.SetHTTP1(true)
	dialer := &net.Dialer{Timeout: patience}
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		address, err := l.names.resolve(ctx, address)
		if err != nil {
			return nil, err
		}
		c, err := dialer.DialContext(ctx, network, address)
		if err == nil {
			x.mu.Lock()
			x.conns = append(x.conns, c)
			x.mu.Unlock()
		}
		return c, err
	}
	if change != nil {
		change(t)
	}
	x.client = &http.Client{Transport: t, Timeout: patience}
	return x
}

// tear resets the connections, as a program does that dies in the middle.
func (x *wire) tear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	x.conns = nil
	x.tears++
}

func (x *wire) torn() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.tears
}

func (x *wire) close() { x.client.CloseIdleConnections() }

// A job is one request for /body/ and how it is made.
type job struct {
	base     string
	up, down int64
	chunked  bool
	// slow is the pause after each 16 KiB.
	slow time.Duration
	// tearAt is after how many bytes, sent and received, the request is broken
	// off; negative for never.
	tearAt int64
	// hidden: nobody but the origin sees it.
	hidden bool
}

// errTorn is the end of a body that is torn on purpose.
var errTorn = errors.New("torn on purpose")

// A toll counts the bytes that pass and breaks the request off.
type toll struct {
	r    io.Reader
	j    *job
	n    *int64
	tear func()
}

func (t *toll) Read(p []byte) (int, error) {
	if t.j.tearAt >= 0 && *t.n >= t.j.tearAt {
		t.tear()
		return 0, errTorn
	}
	if len(p) > 16<<10 {
		p = p[:16<<10]
	}
	k, err := t.r.Read(p)
	*t.n += int64(k)
	if t.j.slow > 0 && k > 0 {
		time.Sleep(t.j.slow)
	}
	return k, err
}

// body makes one request and compares what comes back.
func (w *worker) body(x *wire, j *job) {
	path := w.path("body")
	seed := uint64(w.load.seed)<<32 ^ uint64(w.index)<<20 ^ uint64(w.below(1<<20))
	tears := x.torn()
	torn, err := func() (torn bool, err error) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		tear := func() {
			// In HTTP/2 only the stream, most of the time.
			if x.client.Transport.(*http.Transport).Protocols.HTTP1() || w.below(8) == 0 {
				x.tear()
			}
			cancel()
		}
		target := fmt.Sprintf("%s%s?seed=%d&up=%d&down=%d", j.base, path, seed, j.up, j.down)
		if j.chunked {
			target += "&chunked"
		}
		var passed int64
		var upload io.Reader
		method := "GET"
		if j.up > 0 {
			method, upload = "PUT", &toll{io.LimitReader(newStream(seed), j.up), j, &passed, tear}
		}
		req, err := http.NewRequestWithContext(ctx, method, target, upload)
		if err != nil {
			return false, err
		}
		if j.up > 0 && !j.chunked {
			req.ContentLength = j.up
		}
		resp, err := x.client.Do(req)
		if err != nil {
			return j.tearAt >= 0 || x.torn() > tears, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
			return false, fmt.Errorf("status %d: %s", resp.StatusCode, b)
		}
		c := newComparing(seed + 1)
		n, err := io.CopyBuffer(c, &toll{resp.Body, j, &passed, tear}, make([]byte, 16<<10))
		var wrong *wrongError
		switch {
		case errors.As(err, &wrong):
			return false, err
		case err != nil:
			return j.tearAt >= 0 || x.torn() > tears, err
		case n != j.down:
			return false, fmt.Errorf("WRONG BYTES: %d of %d looked whole", n, j.down)
		}
		return false, nil
	}()
	switch {
	case torn:
		w.became(path, "broken", nil)
	case err != nil:
		w.became(path, "failed", err)
	case j.hidden:
		w.became(path, "hidden", nil)
	default:
		w.became(path, "done", nil)
	}
}

// job makes up a request.
func (w *worker) job(base string, most int) *job {
	j := &job{base: base, down: int64(w.below(most)), tearAt: -1, chunked: w.below(2) == 0}
	if w.below(3) == 0 {
		j.up = int64(1 + w.below(most))
	}
	if w.below(12) == 0 {
		j.tearAt = int64(w.below(int(j.up+j.down) + 1))
	}
	return j
}

// several makes a few requests on one connection, with pauses.
func (w *worker) several(x *wire, base string, hidden bool) {
	defer x.close()
	for range 1 + w.below(20) {
		j := w.job(base, 40_000)
		j.hidden = hidden
		w.body(x, j)
		w.pause(3 * time.Second)
		if w.until.Err() != nil {
			return
		}
	}
}

func (w *worker) keepAlive() { w.several(w.load.newWire(nil), secureBase, false) }
func (w *worker) clear()     { w.several(w.load.newWire(nil), clearBase, false) }
func (w *worker) tunnel()    { w.several(w.load.newWire(nil), tunnelBase, true) }

// proxied asks a proxy for it; the gate answers in its place.
func (w *worker) proxied() {
	proxy, _ := url.Parse(proxyURL)
	base := []string{secureBase, clearBase}[w.below(2)]
	w.several(w.load.newWire(func(t *http.Transport) { t.Proxy = http.ProxyURL(proxy) }), base, false)
}

// newConnections has a connection for each request.
func (w *worker) newConnections() {
	x := w.load.newWire(func(t *http.Transport) { t.DisableKeepAlives = true })
	defer x.close()
	w.body(x, w.job(secureBase, 5000))
	w.pause(2 * time.Second)
}

// bulk moves megabytes, and then rests: what is to be seen is whether they come
// whole beside all else, not how many the machine can move.
func (w *worker) bulk() {
	x := w.load.newWire(nil)
	defer x.close()
	w.body(x, w.job([]string{secureBase, clearBase}[w.below(2)], 4_000_000))
	w.pause(30 * time.Second)
}

// slow reads and writes so slowly that the other side has to wait.
func (w *worker) slow() {
	x := w.load.newWire(nil)
	defer x.close()
	j := w.job(secureBase, 1_500_000)
	j.slow = time.Duration(5+w.below(60)) * time.Millisecond
	w.body(x, j)
}

// refused asks for what the policy forbids, between requests that it allows,
// with a body now and then.
func (w *worker) refused() {
	x := w.load.newWire(nil)
	defer x.close()
	for range 1 + w.below(10) {
		path := w.path("denied")
		if err := w.askForbidden(x, path); err != nil {
			w.became(path, "failed", err)
		} else {
			w.became(path, "done", nil)
		}
		w.body(x, &job{base: secureBase, down: 100, tearAt: -1})
		w.pause(3 * time.Second)
	}
}

func (w *worker) askForbidden(x *wire, path string) error {
	var body io.Reader
	method := "GET"
	if w.below(3) == 0 {
		method, body = "POST", io.LimitReader(newStream(1), int64(1+w.below(20_000)))
	}
	req, err := http.NewRequest(method, secureBase+path, body)
	if err != nil {
		return err
	}
	resp, err := x.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var refusal struct{ Reason, Rule string }
	if err := json.NewDecoder(resp.Body).Decode(&refusal); err != nil {
		return err
	}
	io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusForbidden || refusal.Reason != "rule_denied" || refusal.Rule != "denied" {
		return fmt.Errorf("status %d, %+v", resp.StatusCode, refusal)
	}
	return nil
}

// streams has many requests side by side on one connection of HTTP/2.
func (w *worker) streams() { w.sideBySide(secureBase, false) }

// clearStreams does so without TLS, by prior knowledge.
func (w *worker) clearStreams() { w.sideBySide(clearBase, true) }

func (w *worker) sideBySide(base string, clear bool) {
	x := w.load.newWire(func(t *http.Transport) {
		t.Protocols.SetHTTP1(false)
		t.Protocols.SetHTTP2(!clear)
		t.Protocols.SetUnencryptedHTTP2(clear)
	})
	defer x.close()
	for range 1 + w.below(10) {
		var wg sync.WaitGroup
		for range 1 + w.below(8) {
			wg.Go(func() {
				j := w.job(base, 60_000)
				if w.below(10) == 0 {
					j.slow = time.Duration(1+w.below(20)) * time.Millisecond
				}
				w.body(x, j)
			})
		}
		wg.Wait()
		w.pause(4 * time.Second)
		if w.until.Err() != nil {
			return
		}
	}
}
