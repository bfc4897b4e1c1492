package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// A load makes requests at a steady rate, each fifth on a connection of its own, and
// knocks at a port that no policy allows. What it cannot know is what came: the
// internet counts that.
type load struct {
	fresh, kept *http.Client
	// resolving is held by the request that asks for the name anew.
	resolving sync.Mutex
	began     time.Time

	mu sync.Mutex
	// address is what the name had at that time.
	address string
	at      time.Time
	tally   tally
	took    []time.Duration
	errors  map[string]int
}

// A tally is what a load has to tell.
type tally struct {
	Tried    int            `json:"tried"`
	OK       int            `json:"ok"`
	Lost     int            `json:"lost"` // a request without its answer
	Rate     float64        `json:"per_second"`
	Knocked  int            `json:"knocked"`  // attempts at the forbidden port, TCP and UDP
	Answered int            `json:"answered"` // of those, by the origin itself
	P50      float64        `json:"p50_ms"`
	P99      float64        `json:"p99_ms"`
	Max      float64        `json:"max_ms"`
	Errors   map[string]int `json:"errors,omitempty"`
}

// atOnce is how many requests are under way at most. Where as many wait, the machine
// is too slow for the rate, and the load goes at the machine's: with more they would
// wait for each other, and the last for longer than patience.
const atOnce = 20

// patience is after how long a request is lost.
const patience = time.Minute

// runLoad loads until ctx ends, then writes its tally.
func runLoad(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	rate := flags.Int("rate", 50, "requests a `second`; every fifth has a new connection, every 25th is HTTPS")
	host := flags.String("host", "api.example.com", "the `name` that is asked")
	forbidden := flags.String("forbidden", "203.0.113.10:9000", "the `address` that no rule allows, tried five times a second by TCP and by UDP")
	trust := flags.String("trust", "/opt/vm/internet-ca.pem", "the `file` of authorities that are trusted beside those of SSL_CERT_FILE")
	out := flags.String("out", "/run/vm/load.json", "the `file` for the tally")
	flags.Parse(args)
	roots, err := x509.SystemCertPool()
	if err != nil {
		return err
	}
	// Also the origin's own: a direct connection must succeed to be counted.
	b, err := os.ReadFile(*trust)
	if err != nil {
		return err
	}
	roots.AppendCertsFromPEM(b)
	l := &load{errors: map[string]int{}, began: time.Now()}
	client := func(keep bool) *http.Client {
		return &http.Client{Timeout: patience, Transport: &http.Transport{
			DisableKeepAlives: !keep, MaxIdleConnsPerHost: atOnce, TLSClientConfig: &tls.Config{RootCAs: roots}, DialContext: l.dial,
		}}
	}
	l.fresh, l.kept = client(false), client(true)
	var all sync.WaitGroup
	all.Go(func() { l.knock(ctx, *forbidden) })
	tick := time.NewTicker(time.Second / time.Duration(*rate))
	defer tick.Stop()
	// Once at the start, so that a row can wait until it has begun.
	if err := l.write(*out); err != nil {
		return err
	}
	places := make(chan struct{}, atOnce)
	for i := 0; ctx.Err() == nil; i++ {
		select {
		case <-ctx.Done():
		case <-tick.C:
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				continue
			}
			scheme, client := "http", l.kept
			if i%5 == 0 {
				client = l.fresh
			}
			if i%25 == 0 {
				scheme = "https"
			}
			all.Go(func() {
				defer func() { <-places }()
				l.request(client, fmt.Sprintf("%s://%s/%d", scheme, *host, i))
			})
			if i%*rate == 0 {
				if err := l.write(*out); err != nil {
					return err
				}
			}
		}
	}
	all.Wait()
	return l.write(*out)
}

// resolveInterval is how old an address may be. With a question before each
// request, names would be two thirds of what the load sends.
const resolveInterval = time.Second

// dial connects to where the name leads: the first request of a second asks for it,
// and is lost if there is no answer.
func (l *load) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	known, old := l.address, time.Since(l.at) > resolveInterval
	l.mu.Unlock()
	if known == "" || old && l.resolving.TryLock() {
		if known == "" {
			l.resolving.Lock()
		}
		found, err := net.DefaultResolver.LookupHost(ctx, host)
		if err == nil {
			known = found[0]
			l.mu.Lock()
			l.address, l.at = known, time.Now()
			l.mu.Unlock()
		}
		l.resolving.Unlock()
		if err != nil {
			return nil, err
		}
	}
	return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(known, port))
}

// request asks once; it is not broken off when the load ends.
func (l *load) request(client *http.Client, url string) {
	start := time.Now()
	err := func() error {
		r, err := client.Get(url)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return err
		}
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", r.StatusCode)
		}
		return nil
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.Tried++
	if err != nil {
		l.tally.Lost++
		if len(l.errors) < 10 {
			l.errors[err.Error()]++
		}
		return
	}
	l.tally.OK++
	l.took = append(l.took, time.Since(start))
}

func (l *load) knock(ctx context.Context, address string) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		answered := 0
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			c.SetDeadline(time.Now().Add(time.Second))
			if b, _ := io.ReadAll(c); len(b) > 0 {
				answered = 1
			}
			c.Close()
		}
		if c, err := net.Dial("udp", address); err == nil {
			c.Write([]byte("knock"))
			c.Close()
		}
		l.mu.Lock()
		l.tally.Knocked += 2
		l.tally.Answered += answered
		l.mu.Unlock()
	}
}

// write replaces the file at once: who reads it sees a whole tally.
func (l *load) write(file string) error {
	l.mu.Lock()
	t := l.tally
	took := slices.Clone(l.took)
	t.Errors = l.errors
	t.Rate = float64(t.Tried) / time.Since(l.began).Seconds()
	b, err := json.Marshal(withTimes(t, took))
	l.mu.Unlock()
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func withTimes(t tally, took []time.Duration) tally {
	if len(took) == 0 {
		return t
	}
	slices.Sort(took)
	at := func(share float64) float64 {
		d := took[min(len(took)-1, int(share*float64(len(took))))]
		return float64(d.Microseconds()) / 1000
	}
	t.P50, t.P99, t.Max = at(.5), at(.99), at(1)
	return t
}
