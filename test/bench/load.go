package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	case keepAlive, connect:
		return j.requests(ready)
	case bulk:
		return j.body(ready)
	case idle:
		return j.idle(ready)
	default:
		return result{}, fmt.Errorf("unknown kind of job %q", j.Kind)
	}
}

// A session is one connection and what it needs for requests.
type session struct {
	conn    *tls.Conn
	request []byte
	buf     []byte
}

func (j *job) open(path string, size int) (*session, error) {
	tcp, err := net.DialTimeout("tcp", j.Address, operationTime)
	if err != nil {
		return nil, err
	}
	tcp.SetDeadline(time.Now().Add(operationTime))
	// No tickets: each handshake is a full one.
	conn := tls.Client(tcp, &tls.Config{
		ServerName: j.Name, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
	})
	if err := conn.Handshake(); err != nil {
		tcp.Close()
		return nil, err
	}
	request := "GET " + path + " HTTP/1.1\r\nHost: " + j.Name + "\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
	return &session{conn: conn, request: []byte(request), buf: make([]byte, size)}, nil
}

// small makes one request for the small body and compares the answer.
func (s *session) small(want []byte) error {
	if _, err := s.conn.Write(s.request); err != nil {
		return err
	}
	n, body, err := s.head()
	if err != nil {
		return err
	}
	for n < body+len(want) {
		k, err := s.conn.Read(s.buf[n:])
		if err != nil {
			return err
		}
		n += k
	}
	if n != body+len(want) || !bytes.Equal(s.buf[body:n], want) {
		return errors.New("the answer has another body")
	}
	return nil
}

// head reads the header section of an answer: how many bytes were read, where
// its body begins.
func (s *session) head() (n, body int, err error) {
	for {
		k, err := s.conn.Read(s.buf[n:])
		n += k
		if i := bytes.Index(s.buf[:n], []byte("\r\n\r\n")); i >= 0 {
			if !bytes.HasPrefix(s.buf, []byte("HTTP/1.1 200 ")) {
				return n, 0, fmt.Errorf("answer %q", s.buf[:n])
			}
			return n, i + 4, nil
		}
		if err != nil {
			return n, 0, err
		}
	}
}

// requests measures small requests of many connections.
func (j *job) requests(ready func() error) (result, error) {
	want := []byte(small())
	sessions := make([]*session, j.Connections)
	times := make([][]time.Duration, j.Connections)
	if j.Kind == keepAlive {
		defer func() {
			for _, s := range sessions {
				if s != nil {
					s.conn.Close()
				}
			}
		}()
		for i := range sessions {
			var err error
			if sessions[i], err = j.open("/small", 4096); err != nil {
				return result{}, err
			}
		}
	}
	one := func(i int) error {
		if s := sessions[i]; s != nil {
			return s.small(want)
		}
		s, err := j.open("/small", 4096)
		if err != nil {
			return err
		}
		defer s.conn.Close()
		return s.small(want)
	}
	all := func(window time.Duration, record bool) error {
		var group sync.WaitGroup
		errs := make([]error, j.Connections)
		end := time.Now().Add(window)
		for i := range j.Connections {
			group.Go(func() {
				if s := sessions[i]; s != nil {
					s.conn.SetDeadline(end.Add(operationTime))
				}
				for begin := time.Now(); begin.Before(end); {
					if errs[i] = one(i); errs[i] != nil {
						return
					}
					now := time.Now()
					if record {
						times[i] = append(times[i], now.Sub(begin))
					}
					begin = now
				}
			})
		}
		group.Wait()
		return errors.Join(errs...)
	}
	if err := all(warmTime, false); err != nil {
		return result{}, err
	}
	if err := ready(); err != nil {
		return result{}, err
	}
	begin := time.Now()
	err := all(j.Window, true)
	wall := time.Since(begin)
	sorted := slices.Concat(times...)
	slices.Sort(sorted)
	if len(sorted) == 0 {
		return result{}, errors.Join(err, errors.New("not one request"))
	}
	return result{Requests: len(sorted), Wall: wall, P50: sorted[len(sorted)/2], P99: sorted[len(sorted)*99/100]}, err
}

// body measures one large body.
func (j *job) body(ready func() error) (result, error) {
	s, err := j.open("/large", 64<<10)
	if err != nil {
		return result{}, err
	}
	defer s.conn.Close()
	if err := ready(); err != nil {
		return result{}, err
	}
	s.conn.SetDeadline(time.Now().Add(operationTime))
	begin := time.Now()
	if _, err := s.conn.Write(s.request); err != nil {
		return result{}, err
	}
	n, at, err := s.head()
	if err != nil {
		return result{}, err
	}
	if !strings.Contains(strings.ToLower(string(s.buf[:at])), "content-length: "+strconv.Itoa(largeSize)+"\r\n") {
		return result{}, fmt.Errorf("answer %q has another length", s.buf[:at])
	}
	period, got := block(), 0
	for p := s.buf[at:n]; ; p = s.buf[:n] {
		for len(p) > 0 {
			rest := period[got%blockSize:]
			k := min(len(p), len(rest))
			if !bytes.Equal(p[:k], rest[:k]) {
				return result{}, fmt.Errorf("the body differs after %d bytes", got)
			}
			got, p = got+k, p[k:]
		}
		if got >= largeSize {
			break
		}
		if n, err = s.conn.Read(s.buf); n == 0 && err != nil {
			return result{}, fmt.Errorf("after %d bytes: %w", got, err)
		}
	}
	return result{Requests: 1, Bytes: int64(got), Wall: time.Since(begin)}, nil
}

// idle opens connections, makes one request on each and keeps them open until
// told to go on.
func (j *job) idle(ready func() error) (result, error) {
	want := []byte(small())
	for range j.Connections {
		s, err := j.open("/small", 2048)
		if err != nil {
			return result{}, err
		}
		defer s.conn.Close()
		if err := s.small(want); err != nil {
			return result{}, err
		}
	}
	return result{Requests: j.Connections}, ready()
}
