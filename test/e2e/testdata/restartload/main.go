// Restartload is a workload that notices every gap: requests at a steady rate on
// kept and on new connections, and streams that stay open. It speaks HTTP by hand,
// because a client library tries again what failed.
//
// A line on its input begins a phase; the figures of the one before are a line of
// JSON on its output. It ends with its input.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	host    = flag.String("host", "", "name of the origin")
	rate    = flag.Int("rate", 500, "requests a second, half of them on new connections")
	streams = flag.Int("streams", 200, "streams, half of them WebSockets")
	kept    = flag.Int("kept", 50, "connections that are kept")
	secure  = flag.Int("secure", 5, "of so many new connections one is TLS; 0: none")
)

// A phase is what happened between two lines of input. Times are in ms.
type phase struct {
	Name string `json:"name"`
	// Requests are those that were answered; Refused those that were not, whatever
	// the reason, with a few of the reasons.
	Requests int      `json:"requests"`
	Refused  int      `json:"refused"`
	Reasons  []string `json:"reasons"`
	// Closed are kept connections that were closed between two requests, Last those
	// on which a response said that it was the last one.
	Closed int `json:"closed"`
	Last   int `json:"last"`
	// P50, P99 and Max are of new connections: from connect to the whole answer.
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
	// KeptP99 and KeptMax are of requests on kept connections.
	KeptP99 float64 `json:"kept_p99"`
	KeptMax float64 `json:"kept_max"`
	// Ended are streams that ended, Clean those that ended without an error of the
	// connection, First and LastEnd when, in ms since the phase began.
	Ended    int      `json:"ended"`
	Clean    int      `json:"clean"`
	First    float64  `json:"first_end"`
	LastEnd  float64  `json:"last_end"`
	Ends     []string `json:"ends"`
	Open     int      `json:"open"`
	NotOpen  int      `json:"not_opened"`
	began    time.Time
	fresh    []time.Duration
	onKept   []time.Duration
	streamMs []float64
}

type load struct {
	mu   sync.Mutex
	now  *phase
	open int
}

const few = 12

func (l *load) request(fresh bool, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.now.Refused++
		if len(l.now.Reasons) < few {
			l.now.Reasons = append(l.now.Reasons, fmt.Sprintf("fresh=%v after %s at %s: %v", fresh, took.Round(time.Millisecond), time.Since(l.now.began).Round(time.Millisecond), err))
		}
		return
	}
	l.now.Requests++
	if fresh {
		l.now.fresh = append(l.now.fresh, took)
	} else {
		l.now.onKept = append(l.now.onKept, took)
	}
}

func (l *load) count(f func(*phase)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l.now)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func quantile(all []time.Duration, q float64) float64 {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return ms(all[min(int(q*float64(len(all))), len(all)-1)])
}

func (l *load) begin(name string) *phase {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.now
	l.now = &phase{Name: name, began: time.Now(), Reasons: []string{}, Ends: []string{}}
	if old == nil {
		return nil
	}
	old.P50, old.P99, old.Max = quantile(old.fresh, 0.5), quantile(old.fresh, 0.99), quantile(old.fresh, 1)
	old.KeptP99, old.KeptMax = quantile(old.onKept, 0.99), quantile(old.onKept, 1)
	if len(old.streamMs) > 0 {
		old.First, old.LastEnd = slices.Min(old.streamMs), slices.Max(old.streamMs)
	}
	old.Open = l.open
	return old
}

// A client is one connection to the origin.
type client struct {
	net.Conn
	r *bufio.Reader
}

const patience = 20 * time.Second

func dial(tlsToo bool) (*client, error) {
	port := "80"
	if tlsToo {
		port = "443"
	}
	d := net.Dialer{Timeout: patience}
	c, err := d.Dial("tcp", net.JoinHostPort(*host, port))
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(patience))
	if tlsToo {
		t := tls.Client(c, &tls.Config{ServerName: *host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err := t.Handshake(); err != nil {
			c.Close()
			return nil, err
		}
		c = t
	}
	return &client{c, bufio.NewReader(c)}, nil
}

// get asks once and reads the whole answer.
func (c *client) get(path string) (last bool, err error) {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, *host); err != nil {
		return false, fmt.Errorf("write: %w", err)
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return false, fmt.Errorf("body: %w", err)
	}
	if resp.StatusCode != 200 {
		return false, fmt.Errorf("status %d: %.200s", resp.StatusCode, body)
	}
	return resp.Close, nil
}

// closed reports whether the other side has closed the connection, as every
// client looks before it uses one again.
func (c *client) closed() bool {
	c.SetReadDeadline(time.Now().Add(-time.Second))
	defer c.SetReadDeadline(time.Time{})
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	raw.Control(func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = err == nil && n == 0 || err != nil && !errors.Is(err, syscall.EAGAIN)
	})
	return gone
}

// keep asks on one connection for as long as that is possible, then on the next.
func (l *load) keep(every time.Duration, offset time.Duration) {
	time.Sleep(offset)
	var c *client
	tick := time.NewTicker(every)
	for range tick.C {
		begin := time.Now()
		if c != nil && c.closed() {
			l.count(func(p *phase) { p.Closed++ })
			c.Close()
			c = nil
		}
		fresh := c == nil
		if fresh {
			var err error
			if c, err = dial(false); err != nil {
				l.request(true, time.Since(begin), fmt.Errorf("dial: %w", err))
				continue
			}
		}
		last, err := c.get("/kept")
		l.request(fresh, time.Since(begin), err)
		if last {
			l.count(func(p *phase) { p.Last++ })
		}
		if last || err != nil {
			c.Close()
			c = nil
		}
	}
}

func (l *load) fresh(tlsToo bool) {
	begin := time.Now()
	c, err := dial(tlsToo)
	if err != nil {
		l.request(true, time.Since(begin), fmt.Errorf("dial: %w", err))
		return
	}
	defer c.Close()
	_, err = c.get("/fresh")
	l.request(true, time.Since(begin), err)
}

// stream keeps one stream open, again and again.
func (l *load) stream(websocket bool) {
	for {
		end, err := l.one(websocket)
		if end == "" {
			l.count(func(p *phase) {
				p.NotOpen++
				if len(p.Reasons) < few {
					p.Reasons = append(p.Reasons, fmt.Sprintf("stream: %v", err))
				}
			})
			time.Sleep(100 * time.Millisecond)
			continue
		}
		l.count(func(p *phase) {
			p.Ended++
			l.open--
			if err == nil {
				p.Clean++
			}
			p.streamMs = append(p.streamMs, ms(time.Since(p.began)))
			if text := fmt.Sprintf("%s %v", end, err); len(p.Ends) < few && !slices.Contains(p.Ends, text) {
				p.Ends = append(p.Ends, text)
			}
		})
	}
}

// one opens a stream and reads it to its end.
func (l *load) one(websocket bool) (end string, err error) {
	c, err := dial(false)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if websocket {
		fmt.Fprintf(c, "GET /websocket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", *host)
	} else {
		fmt.Fprintf(c, "GET /events HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n\r\n", *host)
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return "", err
	}
	if want := map[bool]int{true: 101, false: 200}[websocket]; resp.StatusCode != want {
		return "", fmt.Errorf("status %d", resp.StatusCode)
	}
	c.SetDeadline(time.Time{})
	l.count(func(*phase) { l.open++ })
	if websocket {
		return readFrames(c.r)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return "events", err
}

// readFrames reads WebSocket frames until the one that closes, or the end.
func readFrames(r *bufio.Reader) (string, error) {
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(r, head); err != nil {
			return "websocket without close frame", err
		}
		payload := make([]byte, head[1]&0x7f)
		if _, err := io.ReadFull(r, payload); err != nil {
			return "websocket within a frame", err
		}
		if head[0]&0x0f == 8 {
			code := 0
			if len(payload) >= 2 {
				code = int(payload[0])<<8 | int(payload[1])
			}
			return fmt.Sprintf("websocket closed with %d", code), nil
		}
	}
}

func main() {
	flag.Parse()
	l := &load{}
	l.begin("start")
	for i := range *streams {
		go l.stream(i%2 == 0)
		time.Sleep(2 * time.Millisecond)
	}
	half := *rate / 2
	every := time.Second * time.Duration(*kept) / time.Duration(half)
	for i := range *kept {
		go l.keep(every, every*time.Duration(i)/time.Duration(*kept))
	}
	go func() {
		tick := time.NewTicker(time.Second / time.Duration(half))
		for i := 0; ; i++ {
			<-tick.C
			go l.fresh(*secure > 0 && i%*secure == 0)
		}
	}()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		line, err := json.Marshal(l.begin(strings.TrimSpace(in.Text())))
		if err != nil {
			panic(err)
		}
		fmt.Println(string(line))
	}
}
