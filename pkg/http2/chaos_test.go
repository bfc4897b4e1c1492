package http2

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"
)

// A pattern is content that tells from which exchange it is and where in it.
type pattern struct{ seed, at, n int64 }

func (p *pattern) Read(b []byte) (int, error) {
	if p.at == p.n {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.n-p.at))
	for i := range n {
		b[i] = p.byte(p.at + int64(i))
	}
	p.at += int64(n)
	return n, nil
}

func (p *pattern) byte(at int64) byte {
	return byte(uint64(at)*0x9e3779b97f4a7c15>>40 + uint64(p.seed)*0x9e37)
}

// check reads what should be the pattern.
func (p *pattern) check(r io.Reader) error {
	b := make([]byte, 3000)
	for {
		n, err := r.Read(b)
		for i := range n {
			if b[i] != p.byte(p.at) || p.at >= p.n {
				return fmt.Errorf("wrong byte at %d of exchange %d", p.at, p.seed)
			}
			p.at++
		}
		if err == io.EOF && p.at < p.n {
			return fmt.Errorf("clean end at %d of %d", p.at, p.n)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// TestChaos sends many exchanges of all sizes through a gate, of which some are
// cancelled by the client, cut by the upstream or answered early, some read
// slowly: not one wrong byte, no short body that seems whole, and all memory
// comes back.
func TestChaos(t *testing.T) {
	size := func(r *rand.Rand) int64 { return int64(r.ExpFloat64() * []float64{10, 1000, 30000, 300000}[r.IntN(4)]) }
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var seed, up, down int64
		var mood int
		fmt.Sscanf(r.URL.Path, "/%d/%d/%d/%d", &seed, &up, &down, &mood)
		switch mood {
		case 1: // answers before it reads
			w.WriteHeader(413)
			io.Copy(w, &pattern{seed: seed, n: down})
			return
		case 2: // cut
			io.CopyN(w, &pattern{seed: seed, n: down + 1}, down/2)
			panic(http.ErrAbortHandler)
		case 3: // says nothing
			<-r.Context().Done()
			return
		}
		if err := (&pattern{seed: -seed, n: up}).check(r.Body); err != nil {
			if r.Context().Err() == nil {
				t.Errorf("upload: %v", err)
			}
			return
		}
		if mood == 4 {
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
		io.Copy(w, &pattern{seed: seed, n: down})
	})
	addr, g := newGate(t, handler)
	g.timeout = 300 * time.Millisecond
	client := newClient(t)
	var wg sync.WaitGroup
	end := time.Now().Add(2 * time.Second)
	var mu sync.Mutex
	outcomes := map[string]int{}
	for worker := range 48 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 7))
			for i := 0; time.Now().Before(end); i++ {
				seed := int64(worker*1000000 + i)
				up, down, mood := size(r), size(r), r.IntN(12)
				if mood == 3 {
					// More would wait for a window, which is not the time of the head.
					up %= 10000
				}
				ctx, cancel := context.WithCancel(t.Context())
				if r.IntN(6) == 0 {
					time.AfterFunc(time.Duration(r.IntN(5000))*time.Microsecond, cancel)
				}
				req, _ := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("http://%s/%d/%d/%d/%d", addr, seed, up, down, mood), io.MultiReader(&pattern{seed: -seed, n: up}))
				resp, err := client.Do(req)
				outcome := "no response"
				if err == nil {
					outcome = fmt.Sprint(resp.StatusCode)
					if resp.StatusCode == 200 || resp.StatusCode == 413 {
						err := (&pattern{seed: seed, n: down}).check(resp.Body)
						switch {
						case err == nil && mood == 2 && down > 0:
							t.Errorf("a cut response of %d seems whole", down)
						case err == nil:
							outcome += " whole"
						case ctx.Err() == nil && mood != 2 && mood != 1:
							t.Errorf("mood %d, %d up, %d down: %v", mood, up, down, err)
						}
					}
					resp.Body.Close()
				} else if ctx.Err() == nil && mood != 1 && mood != 2 {
					t.Errorf("mood %d: %v", mood, err)
				}
				cancel()
				mu.Lock()
				outcomes[outcome]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Log(outcomes)
	if outcomes["200 whole"] < 20 {
		t.Error("hardly anything was served")
	}
	client.CloseIdleConnections()
	waitFor(t, func() bool {
		return g.codec.Usage().Held == 0 && g.codec.Usage().Grown == 0 && taken(g.upstream) == 0
	})
}
