package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/stage/ratelimit"
	"sallyport/pkg/stage/throttle"
)

// sweepInterval is how often counters and buckets that have ended are taken out.
const sweepInterval = 10 * time.Second

// limits are what rate_limit and throttle keep through reloads.
type limits struct {
	counters *ratelimit.Counters
	shared   *ratelimit.Shared
	levels   *throttle.Levels
	// store is nil where counters end with the process.
	store *ratelimit.Store
}

func newLimits(file *os.File, log *zap.Logger, note func(string)) *limits {
	l := &limits{shared: ratelimit.NewShared(log, note), levels: throttle.NewLevels()}
	l.counters = ratelimit.NewCounters(l.shared)
	if file != nil {
		var err error
		if l.store, err = ratelimit.OpenStore(l.counters, file, log, time.Now()); err != nil {
			log.Warn("damaged", zap.Error(err))
			note(err.Error())
		}
	}
	return l
}

// prepare takes what counters need of the configuration besides the rules.
func (l *limits) prepare(c *config.Config, secrets Secrets) error {
	for i := range c.Rules {
		for _, r := range c.Rules[i].RateLimits {
			if r.Policy == config.RedisCounters {
				return l.connect(&c.Redis, secrets)
			}
		}
	}
	return nil
}

func (l *limits) connect(r *config.Redis, secrets Secrets) error {
	server := ratelimit.Server{Redis: *r}
	for _, f := range [...]struct {
		key, path string
		to        *string
	}{{"redis.password_file", r.PasswordFile, &server.Password}, {"redis.ca_file", r.CAFile, &server.CA}} {
		if f.path == "" {
			continue
		}
		data, ok := secrets[f.path]
		if !ok {
			return fmt.Errorf("%s: %s was not read", f.key, f.path)
		}
		*f.to = string(data)
	}
	server.Password = strings.TrimSuffix(strings.TrimSuffix(server.Password, "\n"), "\r")
	if r.PasswordFile != "" && server.Password == "" {
		return errors.New("redis.password_file: " + r.PasswordFile + " is empty")
	}
	return l.shared.Use(server)
}

// retain forgets what rules counted that are gone.
func (l *limits) retain(rules []config.Rule) {
	limited, throttled := make(map[string]bool), make(map[string]bool)
	for i := range rules {
		r := &rules[i]
		limited[r.Name], throttled[r.Name] = len(r.RateLimits) > 0, len(r.Throttles) > 0
	}
	l.counters.Retain(limited)
	l.levels.Retain(throttled)
}

// stages appends those of a rule.
func (l *limits) stages(all []exchange.Stage, r *config.Rule) []exchange.Stage {
	if len(r.RateLimits) > 0 {
		all = append(all, ratelimit.New(r.Name, r.RateLimits, l.counters))
	}
	if len(r.Throttles) > 0 {
		all = append(all, throttle.New(r.Name, r.Throttles, l.levels))
	}
	return all
}

// run writes counters, connects to Redis and sweeps until ctx ends.
func (l *limits) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { l.shared.Run(ctx) })
	if l.store != nil {
		wg.Go(func() { l.store.Run(ctx) })
	}
	defer wg.Wait()
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.counters.Sweep(time.Now())
			l.levels.Sweep()
		}
	}
}

// close writes what was counted last.
func (l *limits) close() error {
	if l.store == nil {
		return nil
	}
	return l.store.Close()
}

// problems tells, for a person, what keeps limits from being what the rules say.
func (l *limits) problems(rules []config.Rule) []string {
	shared := func(r config.RateLimit) bool { return r.Policy == config.RedisCounters }
	text := l.shared.Trouble()
	if text == "" || !slices.ContainsFunc(rules, func(r config.Rule) bool { return slices.ContainsFunc(r.RateLimits, shared) }) {
		return nil
	}
	return []string{text}
}

func (l *limits) resources() []Resource {
	return []Resource{
		{Name: "rate_limit_keys", Entries: uint64(l.counters.Keys()), Capacity: ratelimit.MaxKeys},
		{Name: "rate_limit_withdrawals", Entries: uint64(l.shared.GivenBack()), Capacity: ratelimit.MaxGivenBack},
		{Name: "throttle_keys", Entries: uint64(l.levels.Keys()), Capacity: throttle.MaxKeys},
		{Name: "throttle_waiting", Entries: uint64(l.levels.Waiting()), Capacity: throttle.MaxWaiting},
	}
}
