package proxy

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"sallyport/pkg/audit"
)

// TestSentBytesOfACutRequest: what left with a request is in its event, also
// where the workload breaks off before there is an answer.
func TestSentBytesOfACutRequest(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		t.Run(protocol, func(t *testing.T) {
			g := newGate(t, http2Rules, nil)
			const size = 300_000
			var got atomic.Int64
			s := g.speaking("api.example.com", func(_ http.ResponseWriter, r *http.Request) {
				b := make([]byte, 4096)
				for {
					n, err := r.Body.Read(b)
					got.Add(int64(n))
					if err != nil {
						return
					}
				}
			}, protocol)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			r, w := io.Pipe()
			defer w.Close()
			go io.CopyN(w, &pattern{}, size)
			go func() {
				until(t, "the body is at the upstream", func() bool { return got.Load() == size })
				cancel()
				w.CloseWithError(context.Canceled)
			}()
			req, err := http.NewRequestWithContext(ctx, "POST", "https://api.example.com/", r)
			if err != nil {
				t.Fatal(err)
			}
			fetch(g.client(s, "api.example.com"), req)
			if e := g.event(audit.Exchange, 1); e.HTTP.RequestBytes != size {
				t.Errorf("%d request bytes, want %d: %s", e.HTTP.RequestBytes, size, e.Message)
			}
		})
	}
}
