package metrics

import (
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"sallyport/pkg/policy"
)

// TestCountingWhileThePageIsMade adds from many goroutines while pages are made
// and workloads come and go, and then compares the sums.
func TestCountingWhileThePageIsMade(t *testing.T) {
	m := New(Options{Datapath: &fakeDatapath{live: []LiveFlow{{Workload: "w0", Sent: 1}}}})
	const writers, each = 4, 2000
	var counting, reading sync.WaitGroup
	stop := make(chan struct{})
	reading.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := m.Gatherer().Gather(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for range writers {
		counting.Go(func() {
			for i := range each {
				w := m.Workload(fmt.Sprint("w", i%3))
				w.FlowOpened(policy.Inspect, policy.Allow)
				r := w.Rule(fmt.Sprint("r", i%5))
				r.Request(&Request{Method: "GET", Status: 200 + i%20, Duration: time.Millisecond})
				r.Denied(policy.NoRule, policy.WouldDeny)
				w.FlowClosed()
				m.Living(func(name string) bool { return name != fmt.Sprint("w", i%3) })
			}
		})
	}
	counting.Wait()
	close(stop)
	reading.Wait()
	var requests uint64
	for _, r := range m.table.allRules() {
		for _, cell := range r.requests.all() {
			requests += cell.n.Load()
		}
	}
	if requests != writers*each {
		t.Errorf("%d requests, want %d", requests, writers*each)
	}
	if got := value(t, m, `flows_active{workload="w0"}`); got != strconv.Itoa(0) {
		t.Errorf("active: %s", got)
	}
}
