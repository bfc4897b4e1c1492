package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http/httputil"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// eventPause is how often the origin sends an event on each stream.
const eventPause = 4 * time.Millisecond

// events measures how long server-sent events are under way, on several
// streams at a time. Each says when it was sent, by the clock that all
// processes of a machine share.
func (j *job) events(ready func() error) (result, error) {
	d := &dialer{job: j, protocol: "http/1.1"}
	streams := make([]*bufio.Reader, j.Connections)
	for i := range streams {
		s, err := newSession(d, j.Name, "/events", 4096)
		if err != nil {
			return result{}, err
		}
		defer s.conn.Close()
		if _, err := s.conn.Write(s.request); err != nil {
			return result{}, err
		}
		raw := bufio.NewReader(s.conn)
		if err := eventHead(raw); err != nil {
			return result{}, err
		}
		streams[i] = bufio.NewReader(httputil.NewChunkedReader(raw))
	}
	next := make([]int, len(streams))
	times := make([][]time.Duration, len(streams))
	load := func(window time.Duration, record bool) error {
		var group sync.WaitGroup
		errs := make([]error, len(streams))
		end := time.Now().Add(window)
		for i, s := range streams {
			group.Go(func() {
				for time.Now().Before(end) {
					number, under, err := readEvent(s)
					switch {
					case err != nil:
						errs[i] = err
					case next[i] != 0 && number != next[i]:
						errs[i] = fmt.Errorf("event %d came instead of %d", number, next[i])
					}
					if errs[i] != nil {
						return
					}
					next[i] = number + 1
					if record {
						times[i] = append(times[i], under)
					}
				}
			})
		}
		group.Wait()
		return errors.Join(errs...)
	}
	wall, err := j.warmed(load, ready)
	if err != nil {
		return result{}, err
	}
	r, err := summary(times, wall)
	r.All, r.TLS = len(streams), d.seen
	return r, err
}

// eventHead reads the header section of a stream of events.
func eventHead(r *bufio.Reader) error {
	var head bytes.Buffer
	for {
		line, err := r.ReadSlice('\n')
		head.Write(line)
		if err != nil {
			return fmt.Errorf("%w after %q", err, head.Bytes())
		}
		if len(line) == 2 {
			break
		}
	}
	text := bytes.ToLower(head.Bytes())
	if !bytes.HasPrefix(text, []byte("http/1.1 200 ")) || !bytes.Contains(text, []byte("\r\ntransfer-encoding: chunked\r\n")) {
		return fmt.Errorf("answer %q", head.Bytes())
	}
	return nil
}

// readEvent reads one event: its number on the stream and how long it was
// under way.
func readEvent(r *bufio.Reader) (number int, under time.Duration, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, 0, err
	}
	now := monotonic()
	f := bytes.Fields(line)
	if len(f) != 3 || string(f[0]) != "data:" {
		return 0, 0, fmt.Errorf("%q is no event", line)
	}
	number, err = strconv.Atoi(string(f[1]))
	if err != nil {
		return 0, 0, err
	}
	sent, err := strconv.ParseInt(string(f[2]), 10, 64)
	if err != nil {
		return 0, 0, err
	}
	if line, err = r.ReadSlice('\n'); err != nil || len(line) != 1 {
		return 0, 0, fmt.Errorf("%q after an event (%v)", line, err)
	}
	return number, time.Duration(now - sent), nil
}

// monotonic is the machine's clock in ns.
func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0
	}
	return t.Nano()
}
