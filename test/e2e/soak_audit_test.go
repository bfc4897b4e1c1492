package e2e

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sallyport/pkg/audit"
)

// closed waits until each flow that was opened is closed in the audit too.
func (s *soak) closed() {
	s.t.Helper()
	open := 0
	for start := time.Now(); ; time.Sleep(250 * time.Millisecond) {
		flows := map[uint64]int{}
		s.events(func(e *audit.Event) {
			switch e.Kind {
			case audit.FlowOpen:
				flows[e.Flow]++
			case audit.FlowClose:
				flows[e.Flow]--
			}
		})
		open = 0
		for _, n := range flows {
			open += max(n, 0)
		}
		// How many stay open, complete tells.
		if open == 0 || late(start, 30*time.Second) {
			return
		}
	}
}

// complete compares the audit with what became of each request.
func (s *soak) complete() {
	s.t.Helper()
	exchanges := map[string]int{}
	flows := map[uint64]int{} // opened, less closed
	kinds := map[audit.Kind]int{}
	misjudged := 0
	s.events(func(e *audit.Event) {
		kinds[e.Kind]++
		switch e.Kind {
		case audit.Exchange:
			if e.HTTP.Path != "" && e.HTTP.Path != "/figures" {
				exchanges[e.HTTP.Path]++
			}
			if denied := strings.HasPrefix(e.HTTP.Path, "/denied/"); denied != (e.Reason == "rule_denied") || denied != (e.Rule == "denied") {
				misjudged++
			}
		case audit.Refused:
			s.t.Logf("refused: %s %s %v %s", e.Reason, e.Workload.Name, e.Dst, e.Message)
		case audit.FlowOpen:
			flows[e.Flow]++
		case audit.FlowClose:
			flows[e.Flow]--
		}
	})
	s.t.Logf("audit: %v", kinds)
	if misjudged > 0 {
		s.t.Errorf("%d exchanges were judged by another rule than theirs", misjudged)
	}
	open := 0
	for _, n := range flows {
		if n != 0 {
			open++
		}
	}
	if open != 0 {
		s.t.Errorf("%d of %d flows were not both opened and closed once", open, len(flows))
	}
	counts, complaints := map[string]int{}, 0
	paths, _ := filepath.Glob(s.path("/srv/results-*"))
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			s.t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			path, what, ok := strings.Cut(lines.Text(), " ")
			if !ok {
				continue // the last line of a killed program
			}
			counts[what]++
			n := exchanges[path]
			delete(exchanges, path)
			if what == "done" && n != 1 || what == "broken" && n > 1 || what == "hidden" && n != 0 {
				if complaints++; complaints <= 10 {
					s.t.Errorf("%s was %s: %d events", path, what, n)
				}
			}
		}
		f.Close()
	}
	// What is left belongs to programs that were killed before they could tell.
	unknown := len(exchanges)
	for path, n := range exchanges {
		if n > 1 {
			s.t.Errorf("%s of a killed program: %d events", path, n)
		}
	}
	s.t.Logf("requests: %v, and %d of killed programs", counts, unknown)
	if complaints > 10 {
		s.t.Errorf("%d requests have another number of events than they must", complaints)
	}
	if counts["done"] < s.plan.connections || unknown > 6*8*s.plan.connections/s.plan.loaders {
		s.t.Errorf("requests: %v, %d unknown", counts, unknown)
	}
}

// events reads the whole audit, rotated files too.
func (s *soak) events(each func(*audit.Event)) {
	s.t.Helper()
	paths, _ := filepath.Glob(s.path("/var/log/sallyport/audit*"))
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			s.t.Fatal(err)
		}
		r := audit.NewReader(f)
		for {
			var e audit.Event
			_, err := r.Next(&e)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				s.t.Fatalf("%s: %v", p, err)
			}
			each(&e)
		}
		f.Close()
	}
}
