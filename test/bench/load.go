package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// operationTime bounds one request, so that a proxy that hangs is an error.
const operationTime = 20 * time.Second

// warmTime is how long the load runs before it is measured.
const warmTime = 300 * time.Millisecond

// serveJobs is the client side: one job after the other until the input ends.
func serveJobs(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var j job
		if err := json.Unmarshal(line, &j); err != nil {
			return err
		}
		ready := func() error {
			if err := encode(out, result{}); err != nil {
				return err
			}
			_, err := lines.ReadString('\n')
			return err
		}
		r, err := j.run(ready)
		if err != nil {
			r.Error = err.Error()
		}
		if err := encode(out, r); err != nil {
			return err
		}
	}
}

// run does one job and calls ready between warming up and the measurement.
func (j *job) run(ready func() error) (result, error) {
	switch j.Kind {
	case keepAlive, connect, newNames:
		return j.requests(ready)
	case multiplex:
		return j.multiplex(ready)
	case bulk:
		return j.body(ready)
	case plainBulk:
		return j.plainBodies(ready)
	case dial:
		return j.dials(ready)
	case events:
		return j.events(ready)
	case idle:
		return j.idle(ready)
	default:
		return result{}, fmt.Errorf("unknown kind of job %q", j.Kind)
	}
}

// warmed runs a load unrecorded for warmTime, then recorded for the window, and
// gives how long the second took.
func (j *job) warmed(load func(window time.Duration, record bool) error, ready func() error) (time.Duration, error) {
	if err := load(warmTime, false); err != nil {
		return 0, err
	}
	if err := ready(); err != nil {
		return 0, err
	}
	begin := time.Now()
	err := load(j.Window, true)
	return time.Since(begin), err
}

// summary puts what the parts of a load saw together.
func summary(times [][]time.Duration, wall time.Duration) (result, error) {
	sorted := slices.Concat(times...)
	slices.Sort(sorted)
	if len(sorted) == 0 {
		return result{}, errors.New("not one request")
	}
	return result{Requests: len(sorted), Wall: wall, P50: sorted[len(sorted)/2], P99: sorted[len(sorted)*99/100]}, nil
}
