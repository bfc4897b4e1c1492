package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

// The names and ports of the origin, and of a proxy that nobody contacts.
const (
	secureBase = "https://soak.example.com:9460"
	clearBase  = "http://soak.example.com:9461"
	tunnelBase = "https://tunnel.example.com:9460"
	proxyURL   = "http://203.0.113.14:3128"
)

// patience is how long one request may take, slow ones included.
const patience = 2 * time.Minute

// A load is one program behind the gate with many connections.
type load struct {
	name, results string
	seed          uint64
	workers       int
	duration      time.Duration

	out   *os.File
	names names

	mu     sync.Mutex
	counts map[string]int
	errors []string
}

// The kinds of connection, by their share of all.
func (l *load) kinds() []func(*worker) {
	return []func(*worker){
		(*worker).keepAlive, (*worker).keepAlive, (*worker).keepAlive, (*worker).clear,
		(*worker).newConnections, (*worker).newConnections, (*worker).socket, (*worker).socket,
		(*worker).events, (*worker).events, (*worker).tunnel, (*worker).proxied,
		(*worker).bulk, (*worker).slow, (*worker).refused, (*worker).keepAlive,
		(*worker).streams, (*worker).streams, (*worker).clearStreams,
	}
}

// run keeps the connections busy for the duration and prints a summary.
func (l *load) run(ctx context.Context) (err error) {
	if l.out, err = os.OpenFile(l.results, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return err
	}
	defer l.out.Close()
	l.counts = map[string]int{}
	until, stop := context.WithTimeout(ctx, l.duration)
	defer stop()
	kinds := l.kinds()
	var wg sync.WaitGroup
	for i := range l.workers {
		w := &worker{load: l, index: i, random: rand.New(rand.NewPCG(l.seed, uint64(i))), until: until}
		wg.Go(func() {
			// Not all at the same instant.
			w.pause(2 * time.Second)
			for until.Err() == nil {
				kinds[i%len(kinds)](w)
			}
		})
	}
	wg.Wait()
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"counts": l.counts, "errors": l.errors})
}

// A worker is one place for a connection.
type worker struct {
	load   *load
	index  int
	next   int
	random *rand.Rand
	until  context.Context

	mu sync.Mutex // of random and next, where streams run side by side
}

// path gives a path that no other request has.
func (w *worker) path(kind string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	return fmt.Sprintf("/%s/%s/%d/%d", kind, w.load.name, w.index, w.next)
}

// below gives a number from 0 to n-1.
func (w *worker) below(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.random.IntN(n)
}

// pause waits up to most, or until the end.
func (w *worker) pause(most time.Duration) {
	t := time.NewTimer(time.Duration(w.below(int(most))))
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.until.Done():
	}
}

// became writes down what became of a request.
func (w *worker) became(path, what string, err error) {
	l := w.load
	// One call of the system each: a killed loader has told all but what runs.
	l.out.WriteString(path + " " + what + "\n")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what]++
	if what == "failed" && len(l.errors) < 20 {
		l.errors = append(l.errors, path+": "+err.Error())
	}
}
