package ratelimit

import (
	"context"
	_ "embed"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"
	"go.uber.org/zap"
)

const (
	// probeInterval is how often a Redis that is away is asked whether it is back.
	// Only one asks: requests do not wait for it meanwhile.
	probeInterval = 200 * time.Millisecond
	// MaxGivenBack bounds the requests that are to be taken back in Redis. One more
	// stays counted.
	MaxGivenBack = 4096
	// givenBackAtOnce go to Redis together.
	givenBackAtOnce = 64
)

// Shared is where counters are that several daemons share: a Redis or Valkey. A
// constructor connects nothing; Run keeps the connection.
type Shared struct {
	scripts scripts

	log  *zap.Logger
	note func(string)
	link atomic.Pointer[link]
	// wake tells Run that Redis is away, or another one.
	wake chan struct{}
	back chan givenBack

	mu sync.Mutex
	// retired are links of earlier configurations, closed by Run.
	retired []*link
}

// NewShared gives a Shared without a server. note is told in a sentence, for
// the audit, when the server goes away and when it is back.
func NewShared(log *zap.Logger, note func(string)) *Shared {
	return &Shared{scripts: newScripts(), log: log, note: note, wake: make(chan struct{}, 1), back: make(chan givenBack, MaxGivenBack)}
}

// Use makes it the server, if it is not already. It waits for the first
// connection and its answer, two seconds at most; without them the server is away.
func (s *Shared) Use(server Server) error {
	old := s.link.Load()
	if old != nil && old.server == server {
		return nil
	}
	l := &link{scripts: s.scripts, server: server}
	// Every instance that begins here is one that may have other counts.
	if old != nil {
		l.outages.Store(old.outages.Load() + 1)
	}
	if err := l.options(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if err := l.probe(); err != nil {
		s.lost(l, l.outages.Load(), err)
	}
	s.link.Store(l)
	if old != nil {
		s.mu.Lock()
		s.retired = append(s.retired, old)
		s.mu.Unlock()
	}
	s.prod()
	return nil
}

// lost remembers that the server did not answer as it must a request that was
// sent after so many outages: of those that fail together the first one counts.
func (s *Shared) lost(l *link, outages uint64, err error) {
	if !l.outages.CompareAndSwap(outages, outages+1) {
		return
	}
	l.away.Store(true)
	s.log.Warn("redis is away", zap.String("address", l.server.Address), zap.Error(err))
	s.note(fmt.Sprintf("redis %s is away (%v): rate limits go on with what was last seen, or refuse where fault_tolerant is false", l.server.Address, err))
	s.prod()
}

// prod wakes Run.
func (s *Shared) prod() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run connects again and takes back until ctx ends.
func (s *Shared) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.giveBack(ctx) })
	defer wg.Wait()
	defer s.closeAll()
	for {
		var again <-chan time.Time
		if l := s.link.Load(); l != nil && l.away.Load() {
			again = time.After(probeInterval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			s.retire()
			continue
		case <-again:
		}
		l := s.link.Load()
		if !l.away.Load() {
			continue // another server meanwhile, which answers
		}
		if err := l.probe(); err != nil {
			s.log.Debug("redis is still away", zap.Error(err))
			continue
		}
		l.away.Store(false)
		s.log.Info("redis is back", zap.String("address", l.server.Address))
		s.note(fmt.Sprintf("redis %s is back", l.server.Address))
	}
}

// retire closes what earlier configurations used. A request that is just asking
// one gets an error and goes on as if it were away.
func (s *Shared) retire() {
	s.mu.Lock()
	old := s.retired
	s.retired = nil
	s.mu.Unlock()
	for _, l := range old {
		l.close()
	}
}

func (s *Shared) closeAll() {
	s.retire()
	if l := s.link.Load(); l != nil {
		l.close()
	}
}

// Connected reports whether the server answers; false also without one.
func (s *Shared) Connected() bool {
	l := s.link.Load()
	return l != nil && !l.away.Load()
}

// Trouble says that the server is away, and what that means; "" where it answers.
func (s *Shared) Trouble() string {
	if l := s.link.Load(); l != nil && l.away.Load() {
		return fmt.Sprintf("redis %s is away: rate limits go on with what was last seen, or refuse where fault_tolerant is false", l.server.Address)
	}
	return ""
}

// GivenBack gives how many requests wait to be taken back, of MaxGivenBack.
func (s *Shared) GivenBack() int { return len(s.back) }

// A givenBack is a request that is to be taken back.
type givenBack struct {
	link *link
	keys []string
	args []string
}

// giveBack takes back in the order of what comes.
func (s *Shared) giveBack(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case first := <-s.back:
			s.giveBackAll(first)
		}
	}
}

func (s *Shared) giveBackAll(first givenBack) {
	l := first.link
	client := l.client.Load()
	if l.away.Load() || client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.server.Timeout)
	defer cancel()
	more := []valkey.LuaExec{{Keys: first.keys, Args: first.args}}
	for len(more) < givenBackAtOnce {
		select {
		case next := <-s.back:
			if next.link == l {
				more = append(more, valkey.LuaExec{Keys: next.keys, Args: next.args})
			}
			continue
		default:
		}
		break
	}
	for _, r := range l.scripts.giveBack.ExecMulti(ctx, *client, more...) {
		if err := r.Error(); err != nil {
			s.log.Debug("take back", zap.Error(err))
			return
		}
	}
}
