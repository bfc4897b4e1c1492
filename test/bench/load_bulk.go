package main

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// The sizes of the bodies. The large one repeats a block, so that a client can
// compare it.
const (
	smallSize = 1 << 10
	pageSize  = 16 << 10
	blockSize = 1 << 20
	largeSize = 256 << 20
)

// small is the body of the small answer.
func small() string { return strings.Repeat("0123456789abcdef", smallSize/16) }

// page is the body of an answer that is worth keeping.
func page() string { return strings.Repeat("0123456789abcdef", pageSize/16) }

// block is one period of the large body.
func block() []byte {
	b := make([]byte, blockSize)
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

// body measures one large body by TLS.
func (j *job) body(ready func() error) (result, error) {
	d := &dialer{job: j, protocol: "http/1.1"}
	conn, err := d.open(j.Name)
	if err != nil {
		return result{}, err
	}
	defer conn.Close()
	if err := ready(); err != nil {
		return result{}, err
	}
	begin := time.Now()
	if err := download(conn, j.Name, make([]byte, 64<<10), block()); err != nil {
		return result{}, err
	}
	return result{Requests: 1, All: 1, Bytes: largeSize, Wall: time.Since(begin), TLS: d.seen}, nil
}

// plainBodies measures large bodies without TLS, one after the other on one
// connection until the window is over.
func (j *job) plainBodies(ready func() error) (r result, err error) {
	conn, err := net.DialTimeout("tcp", j.Address, operationTime)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	buf, period := make([]byte, 256<<10), block()
	if err := ready(); err != nil {
		return r, err
	}
	for begin := time.Now(); r.Wall < j.Window; r.Wall = time.Since(begin) {
		if err := download(conn, j.Name, buf, period); err != nil {
			return r, err
		}
		r.Requests++
		r.Bytes += largeSize
	}
	r.All = r.Requests
	return r, nil
}

// download asks for the large body and compares it.
func download(conn net.Conn, name string, buf, period []byte) error {
	conn.SetDeadline(time.Now().Add(operationTime))
	if _, err := conn.Write(request(name, "/large")); err != nil {
		return err
	}
	n, at := 0, -1
	for at < 0 {
		k, err := conn.Read(buf[n:])
		if err != nil {
			return err
		}
		n += k
		at = bytes.Index(buf[:n], []byte("\r\n\r\n"))
	}
	head := strings.ToLower(string(buf[:at+2]))
	if !strings.HasPrefix(head, "http/1.1 200 ") || !strings.Contains(head, "\r\ncontent-length: "+strconv.Itoa(largeSize)+"\r\n") {
		return fmt.Errorf("answer %q", head)
	}
	got := 0
	for p := buf[at+4 : n]; ; p = buf[:n] {
		for len(p) > 0 {
			rest := period[got%blockSize:]
			k := min(len(p), len(rest))
			if !bytes.Equal(p[:k], rest[:k]) {
				return fmt.Errorf("the body differs after %d bytes", got)
			}
			got, p = got+k, p[k:]
		}
		if got >= largeSize {
			return nil
		}
		var err error
		if n, err = conn.Read(buf); n == 0 && err != nil {
			return fmt.Errorf("after %d bytes: %w", got, err)
		}
	}
}
