package audit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
)

// The bounds of following.
const (
	// MaxFollowers is how many Subscriptions there can be at a time.
	MaxFollowers = 32
	// recentBytes of the newest lines are kept for whoever starts to follow.
	recentBytes = 256 << 10
	// followerBytes wait for one slow follower.
	followerBytes = 1 << 20
)

// ErrTooManyFollowers: MaxFollowers Subscriptions are open.
var ErrTooManyFollowers = errors.New("too many are following the audit already")

// A Line is one audit line for a follower.
type Line struct {
	// JSON is the line without its newline; it may be kept, not changed.
	JSON []byte
	// Missed, where JSON is nil: so many lines were not delivered at this place,
	// because the follower was too slow. They are in the sink.
	Missed uint64
}

// A Subscription gives lines after they were written.
type Subscription struct {
	owner *followers
	ready chan struct{} // capacity 1

	mu     sync.Mutex
	lines  [][]byte
	bytes  int
	missed uint64
	ended  bool
}

// followers are the Subscriptions of a Log and the newest lines.
type followers struct {
	mu     sync.Mutex
	subs   map[*Subscription]struct{}
	recent []byte
	ended  bool
}

// Subscribe begins to follow: first come up to recent of the newest lines (the
// log remembers 256 KiB of them), then each line as it is written, without a
// gap between. The caller must Close it. It fails with ErrTooManyFollowers, and
// with ErrClosed after Run has ended.
func (l *Log) Subscribe(recent int) (*Subscription, error) {
	f := &l.followers
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil, ErrClosed
	}
	if len(f.subs) >= MaxFollowers {
		return nil, ErrTooManyFollowers
	}
	s := &Subscription{owner: f, ready: make(chan struct{}, 1)}
	if f.subs == nil {
		f.subs = make(map[*Subscription]struct{})
	}
	f.subs[s] = struct{}{}
	s.push(bytes.Clone(lastLines(f.recent, recent)))
	return s, nil
}

// Next waits for the next line. It returns io.EOF after the last line of a log
// that was closed or of a closed Subscription, and the context's error.
func (s *Subscription) Next(ctx context.Context) (Line, error) {
	for {
		line, found, ended := s.pop()
		switch {
		case found:
			return line, nil
		case ended:
			return Line{}, io.EOF
		}
		select {
		case <-ctx.Done():
			return Line{}, ctx.Err()
		case <-s.ready:
		}
	}
}

// Waiting gives the next line if there is one at once.
func (s *Subscription) Waiting() (Line, bool) {
	line, found, _ := s.pop()
	return line, found
}

func (s *Subscription) pop() (line Line, found, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) > 0 {
		first := s.lines[0]
		s.lines[0] = nil
		s.lines = s.lines[1:]
		s.bytes -= len(first)
		return Line{JSON: first}, true, false
	}
	if s.missed > 0 {
		line = Line{Missed: s.missed}
		s.missed = 0
		return line, true, false
	}
	return Line{}, false, s.ended
}

// push appends whole lines, of which the Subscription keeps slices. After the
// first that has no room all are missed until the follower has caught up, so
// that the notice stands at the right place.
func (s *Subscription) push(lines []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(lines) > 0 {
		end := bytes.IndexByte(lines, '\n')
		line := lines[:end:end]
		lines = lines[end+1:]
		if s.missed > 0 || s.bytes > 0 && s.bytes+len(line) > followerBytes {
			s.missed++
			continue
		}
		s.lines = append(s.lines, line)
		s.bytes += len(line)
	}
	s.signal()
}

func (s *Subscription) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Close ends the Subscription; a waiting Next returns io.EOF.
func (s *Subscription) Close() {
	s.owner.mu.Lock()
	delete(s.owner.subs, s)
	s.owner.mu.Unlock()
	s.end()
}

func (s *Subscription) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.signal()
}

func (f *followers) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subs)
}

// publish hands written lines to all followers; the caller keeps the buffer.
func (f *followers) publish(lines []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remember(lines)
	if len(f.subs) == 0 {
		return
	}
	shared := bytes.Clone(lines)
	for s := range f.subs {
		s.push(shared)
	}
}

// remember keeps the newest recentBytes, at most twice as much between two
// moves.
func (f *followers) remember(lines []byte) {
	if len(lines) > recentBytes {
		lines = afterNewline(lines, len(lines)-recentBytes)
	}
	if len(f.recent)+len(lines) > 2*recentBytes {
		f.recent = append(f.recent[:0], afterNewline(f.recent, len(f.recent)-min(len(f.recent), recentBytes))...)
	}
	f.recent = append(f.recent, lines...)
}

func (f *followers) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	for s := range f.subs {
		s.end()
	}
}

// afterNewline gives what follows the first newline at or after from-1: whole
// lines only.
func afterNewline(b []byte, from int) []byte {
	if from <= 0 {
		return b
	}
	end := bytes.IndexByte(b[from-1:], '\n')
	if end < 0 {
		return nil
	}
	return b[from+end:]
}

// lastLines gives the last n lines of b.
func lastLines(b []byte, n int) []byte {
	at := len(b)
	for ; n > 0 && at > 0; n-- {
		at = bytes.LastIndexByte(b[:at-1], '\n') + 1
	}
	return b[at:]
}
