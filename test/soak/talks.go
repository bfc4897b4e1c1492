package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// events listens to a stream of server-sent events, to its end or not.
func (w *worker) events() {
	path := w.path("events")
	x := w.load.newWire(nil)
	defer x.close()
	count, every := 1+w.below(60), w.below(300)
	leave := -1
	if w.below(3) == 0 {
		leave = w.below(count)
	}
	left, err := w.listen(x, path, count, every, leave)
	switch {
	case left:
		w.became(path, "broken", nil)
	case err != nil:
		w.became(path, "failed", err)
	default:
		w.became(path, "done", nil)
	}
	w.pause(time.Second)
}

func (w *worker) listen(x *wire, path string, count, every, leave int) (left bool, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s%s?count=%d&every=%d", secureBase, path, count, every), nil)
	if err != nil {
		return false, err
	}
	resp, err := x.client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range count {
		if i == leave || w.until.Err() != nil {
			if w.below(2) == 0 {
				x.tear()
			}
			return true, nil
		}
		want := fmt.Sprintf("id: %d\ndata: %s\n\n", i, strings.Repeat("x", i%97))
		got := make([]byte, len(want))
		if _, err := io.ReadFull(lines, got); err != nil {
			return false, fmt.Errorf("event %d of %d: %w", i, count, err)
		}
		if string(got) != want {
			return false, fmt.Errorf("WRONG BYTES in event %d: %q", i, got)
		}
	}
	if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
		return false, fmt.Errorf("after the last event: %q: %v", rest, err)
	}
	return false, nil
}

// socket has a WebSocket and talks by it for a while.
func (w *worker) socket() {
	path := w.path("socket")
	left, err := w.talk(path)
	switch {
	case left:
		w.became(path, "broken", nil)
	case err != nil:
		w.became(path, "failed", err)
	default:
		w.became(path, "done", nil)
	}
	w.pause(time.Second)
}

func (w *worker) talk(path string) (left bool, err error) {
	host := strings.TrimPrefix(secureBase, "https://")
	name, _, _ := strings.Cut(host, ":")
	address, err := w.load.names.resolve(context.Background(), host)
	if err != nil {
		return false, err
	}
	tcp, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return false, err
	}
	conn := tls.Client(tcp, &tls.Config{ServerName: name, NextProtos: []string{"http/1.1"}})
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	rw := bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
	fmt.Fprintf(rw, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", path, host)
	if err := rw.Flush(); err != nil {
		return false, err
	}
	resp, err := http.ReadResponse(rw.Reader, nil)
	if err != nil {
		return false, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return false, fmt.Errorf("status %d", resp.StatusCode)
	}
	messages := 1 + w.below(20)
	for range messages {
		conn.SetDeadline(time.Now().Add(patience))
		p := make([]byte, w.below([]int{10, 1000, 100_000}[w.below(3)]))
		io.ReadFull(newStream(uint64(w.below(1<<30))), p)
		writeFrame(rw.Writer, opBinary, p, true)
		if w.below(60) == 0 {
			// In the middle of a message.
			tcp.(*net.TCPConn).SetLinger(0)
			tcp.Close()
			return true, nil
		}
		if err := rw.Flush(); err != nil {
			return false, err
		}
		op, got, err := readFrame(rw.Reader)
		if err != nil {
			return false, err
		}
		if op != opBinary || !bytes.Equal(got, p) {
			return false, fmt.Errorf("WRONG BYTES in a message of %d", len(p))
		}
		w.pause(2 * time.Second)
		if w.until.Err() != nil {
			break
		}
	}
	writeFrame(rw.Writer, opClose, []byte{3, 232}, true)
	if err := rw.Flush(); err != nil {
		return false, err
	}
	if op, _, err := readFrame(rw.Reader); err != nil || op != opClose {
		return false, fmt.Errorf("closing: opcode %d: %w", op, err)
	}
	return false, nil
}
