package balance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/http1"
)

// maxChecks bounds the active checks that run at once, of all upstreams. Beyond,
// they wait for each other.
const maxChecks = 32

// defaultTimeout bounds a check for which no time is configured.
const defaultTimeout = time.Second

// Run checks targets actively until ctx ends. It returns when the last check has
// ended.
func (s *Set) Run(ctx context.Context) error {
	if s.opt.Dial == nil {
		<-ctx.Done()
		return nil
	}
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxChecks)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.wake:
		}
		due, next := s.due(time.Now())
		for i, t := range due {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				for _, t := range due[i:] {
					t.checked(time.Now())
				}
				return nil
			}
			s.checks.Add(1)
			running.Go(func() {
				defer func() {
					s.checks.Add(-1)
					<-slots
					s.hurry()
				}()
				s.check(ctx, t)
			})
		}
		wait := time.Hour
		if !next.IsZero() {
			wait = max(time.Until(next), 0)
		}
		timer.Reset(wait)
	}
}

// interval is how often a target is checked; 0: never.
func (u *Upstream) interval(down bool) time.Duration {
	a := &u.active
	switch {
	case down && a.Healthy.Successes > 0:
		return a.Unhealthy.Interval
	case !down && (a.Unhealthy.HTTPFailures > 0 || a.Unhealthy.TCPFailures > 0 || a.Unhealthy.Timeouts > 0):
		return a.Healthy.Interval
	}
	return 0
}

// due gives the targets whose check is due, and when the next one will be; zero
// where none is.
func (s *Set) due(now time.Time) (due []*Target, next time.Time) {
	for _, u := range s.upstreams() {
		for _, t := range u.targets {
			st := t.state
			st.mu.Lock()
			interval := u.interval(st.down.Load())
			switch {
			case interval <= 0 || st.checking || t.weight == 0:
			case !st.checkAt.After(now):
				st.checking = true
				st.checkAt = now.Add(interval)
				due = append(due, t)
			case next.IsZero() || st.checkAt.Before(next):
				next = st.checkAt
			}
			st.mu.Unlock()
		}
	}
	return due, next
}

func (t *Target) checked(now time.Time) {
	s := t.state
	s.mu.Lock()
	s.checking = false
	if interval := t.up.interval(s.down.Load()); s.checkAt.After(now.Add(interval)) {
		s.checkAt = now.Add(interval)
	}
	s.mu.Unlock()
}

// check asks a target once and counts what it made of it.
func (s *Set) check(ctx context.Context, t *Target) {
	u := t.up
	result, why := s.ask(ctx, t)
	if ctx.Err() != nil {
		result = Nothing
	}
	if result != Nothing {
		a := &u.active
		limit := threshold{a.Healthy.Successes, a.Unhealthy.HTTPFailures, a.Unhealthy.TCPFailures, a.Unhealthy.Timeouts}
		if c, changed := t.count(result, limit, "active check: "+why, time.Now()); changed {
			s.changed(c)
		}
	}
	t.checked(time.Now())
}

// ask makes one check.
func (s *Set) ask(ctx context.Context, t *Target) (Result, string) {
	a := &t.up.active
	timeout := a.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	kind := a.Type
	if kind == "" {
		kind = config.CheckHTTP
		if t.Port == 443 {
			kind = config.CheckHTTPS
		}
	}
	conn, err := s.opt.Dial(ctx, t.up.Name, t, kind == config.CheckHTTPS)
	if err != nil {
		return failure(ctx, err)
	}
	defer conn.Close()
	if kind == config.CheckTCP {
		return Success, "it is reached"
	}
	// A check that is over time, or stopped, ends with its connection.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var codec http1.Codec
	var req exchange.Request
	var resp exchange.Response
	path := a.HTTPPath
	if path == "" {
		path = "/"
	}
	req.Method, req.Version, req.Scheme = "GET", exchange.HTTP11, string(kind)
	req.Path, req.Query, req.HasQuery = strings.Cut(path, "?")
	req.Authority = t.Authority(kind == config.CheckHTTPS)
	req.Header.Add("User-Agent", "sallyport-healthcheck")
	cc := codec.Client(conn)
	err = cc.RoundTrip(&req, &resp, exchange.Options{})
	_, _ = cc.Finish(&req)
	switch {
	case err != nil:
		return failure(ctx, err)
	case !slices.Contains(a.Statuses, resp.Status):
		return HTTPFailure, fmt.Sprintf("it answered %d", resp.Status)
	}
	return Success, fmt.Sprintf("it answered %d", resp.Status)
}

// failure tells a target that is late from one that fails.
func failure(ctx context.Context, err error) (Result, string) {
	var timed interface{ Timeout() bool }
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.As(err, &timed) && timed.Timeout() {
		return Timeout, "it did not answer in time"
	}
	return TCPFailure, err.Error()
}

// Authority is what Host says to the target: its own, with the port unless that
// is the usual one of the scheme.
func (t *Target) Authority(secure bool) string {
	if secure && t.Port == 443 || !secure && t.Port == 80 {
		if strings.Contains(t.Host, ":") {
			return "[" + t.Host + "]"
		}
		return t.Host
	}
	return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
}
