package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A session is one HTTP/1.1 connection and what it needs for requests.
type session struct {
	conn    *tls.Conn
	request []byte
	buf     []byte
}

func newSession(d *dialer, name, path string, size int) (*session, error) {
	conn, err := d.open(name)
	if err != nil {
		return nil, err
	}
	return &session{conn: conn, request: request(name, path), buf: make([]byte, size)}, nil
}

func request(name, path string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: " + name + "\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
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
	want, path := []byte(small()), "/small"
	if j.Page {
		want, path = []byte(page()), "/page"
	}
	d := &dialer{job: j, protocol: "http/1.1", newLeaf: j.Kind == newNames}
	sessions := make([]*session, j.Connections)
	times := make([][]time.Duration, j.Connections)
	var all, names atomic.Int64
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
			if sessions[i], err = newSession(d, j.Name, path, len(want)+3072); err != nil {
				return result{}, err
			}
		}
	}
	one := func(i int) error {
		all.Add(1)
		if s := sessions[i]; s != nil {
			return s.small(want)
		}
		name := j.Name
		if j.Kind == newNames {
			name = "n" + strconv.Itoa(j.First+int(names.Add(1))) + j.Name
		}
		s, err := newSession(d, name, "/small", 4096)
		if err != nil {
			return err
		}
		defer s.conn.Close()
		return s.small(want)
	}
	load := func(window time.Duration, record bool) error {
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
	// One alone first: it sets what the others are compared with.
	if err := one(0); err != nil {
		return result{}, err
	}
	wall, err := j.warmed(load, ready)
	if err != nil {
		return result{}, err
	}
	r, err := summary(times, wall)
	r.All, r.TLS = int(all.Load()), d.seen
	return r, err
}

// idle opens connections, makes one request on each and keeps them open until
// told to go on.
func (j *job) idle(ready func() error) (result, error) {
	want := []byte(small())
	d := &dialer{job: j, protocol: "http/1.1"}
	for range j.Connections {
		s, err := newSession(d, j.Name, "/small", 2048)
		if err != nil {
			return result{}, err
		}
		defer s.conn.Close()
		if err := s.small(want); err != nil {
			return result{}, err
		}
	}
	return result{Requests: j.Connections, All: j.Connections, TLS: d.seen}, ready()
}
