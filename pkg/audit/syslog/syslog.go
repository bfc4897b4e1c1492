// Package syslog is the sink "syslog": messages of RFC 5424 over a datagram or
// stream socket of this host, by UDP (RFC 5426) or by TCP with octet counting
// (RFC 6587 section 3.4.1).
package syslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// Options says where messages go.
type Options struct {
	// Network is "unix", "udp" or "tcp", Address a path or host:port.
	Network, Address string
	// Facility is the number of the facility.
	Facility int
}

const (
	// connectTimeout and sendTimeout bound the wait for a receiver.
	connectTimeout = time.Second
	sendTimeout    = time.Second
	// renewEvery is how long a UDP socket is used: nothing else would tell that a
	// name has another address now.
	renewEvery = 5 * time.Minute
	// answerTimeout is how long an ICMP error may take that refuses a datagram.
	answerTimeout = 200 * time.Millisecond
	// maxUDP leaves room for the headers of IP and UDP and for our own.
	maxUDP = 56 << 10
	// maxLocal is below net.core.wmem_default of Linux, with room for our header.
	maxLocal = 150 << 10
)

// A Sink sends each event as one message: MSGID is its kind, MSG its line, and
// the structured data repeats what a receiver filters by. TCP tells nobody
// whether a message arrived: what was under way when a connection breaks may be
// missing, and the chain of the lines shows it.
type Sink struct {
	o       Options
	host    string
	pid     string
	conn    net.Conn
	stream  bool // counted or separated, else one datagram each
	dialled time.Time
	// doubtful: the last UDP datagram was refused, so the next one must be seen
	// not to be before it counts as sent.
	doubtful bool
	head     audit.Head
	buf      []byte
	ends     []int // of the messages in buf, and of their lines in what is written
	lineEnds []int
}

var _ audit.LimitedSink = (*Sink)(nil)

// New makes a sink. It connects with the first event, and again whenever the
// receiver was away.
func New(o Options) *Sink {
	s := &Sink{o: o, host: "-", pid: strconv.Itoa(os.Getpid())}
	if name, err := os.Hostname(); err == nil && printable(name) && len(name) <= 255 {
		s.host = name
	}
	return s
}

// printable: PRINTUSASCII of RFC 5424 section 6.
func printable(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// Name implements audit.Sink.
func (s *Sink) Name() string { return "syslog" }

// MaxLine implements audit.LimitedSink: what fits into a datagram. By TCP every
// line goes as it is.
func (s *Sink) MaxLine() int {
	switch s.o.Network {
	case "udp":
		return maxUDP
	case "unix":
		return maxLocal
	default:
		return 0
	}
}

// Write implements audit.Sink. It takes whole lines only: a message that was cut
// by the end of a connection is sent again from its start.
func (s *Sink) Write(p []byte) (int, error) {
	if s.stale() {
		s.drop()
	}
	if s.conn == nil {
		if err := s.dial(); err != nil {
			return 0, fmt.Errorf("syslog %s: %w", s.o.Address, err)
		}
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return 0, err
	}
	send := s.sendDatagrams
	if s.stream {
		send = s.sendStream
	}
	n, err := send(p)
	if err != nil {
		s.doubtful = s.o.Network == "udp"
		s.drop()
		err = fmt.Errorf("syslog %s: %w", s.o.Address, err)
	}
	if cap(s.buf) > 1<<20 {
		s.buf = nil
	}
	return n, err
}

// stale reports whether there is a connection that should not be used any more.
// A receiver that has closed a TCP connection is noticed only by reading: the
// first write after it would succeed and be lost.
func (s *Sink) stale() bool {
	switch {
	case s.conn == nil:
		return false
	case s.o.Network == "udp":
		return time.Since(s.dialled) > renewEvery
	case !s.stream:
		return false
	}
	raw, err := s.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	var one [1]byte
	err = raw.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_DONTWAIT|unix.MSG_PEEK)
		closed = n == 0 && err == nil || err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
		return true
	})
	return closed || err != nil
}

func (s *Sink) dial() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	d := net.Dialer{KeepAlive: 30 * time.Second}
	network := s.o.Network
	if network == "unix" {
		network = "unixgram"
	}
	s.conn, err = d.DialContext(ctx, network, s.o.Address)
	if network == "unixgram" && errors.Is(err, unix.EPROTOTYPE) {
		// syslog-ng's unix-stream.
		network = "unix"
		s.conn, err = d.DialContext(ctx, network, s.o.Address)
	}
	if err != nil {
		s.conn = nil
		return err
	}
	s.stream = network == "tcp" || network == "unix"
	s.dialled = time.Now()
	return nil
}

func (s *Sink) drop() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// Close closes the connection.
func (s *Sink) Close() error {
	s.drop()
	return nil
}

func (s *Sink) sendDatagrams(p []byte) (n int, err error) {
	for n < len(p) {
		end := bytes.IndexByte(p[n:], '\n')
		if end < 0 {
			return n, errNotWhole
		}
		s.buf = s.appendMessage(s.buf[:0], p[n:n+end])
		if _, err := s.conn.Write(s.buf); err != nil {
			return n, err
		}
		if s.doubtful {
			if err := s.refused(); err != nil {
				return n, err
			}
			s.doubtful = false
		}
		n += end + 1
	}
	return n, nil
}

// refused waits for what the network says of the datagram before. A socket is told
// of it by the next call only, so that without a look every second datagram to a
// closed port would count as sent.
func (s *Sink) refused() error {
	if err := s.conn.SetReadDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	var one [1]byte
	_, err := s.conn.Read(one[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

var errNotWhole = errors.New("not a whole line")

func (s *Sink) sendStream(p []byte) (int, error) {
	s.buf, s.ends, s.lineEnds = s.buf[:0], s.ends[:0], s.lineEnds[:0]
	for n := 0; n < len(p); {
		end := bytes.IndexByte(p[n:], '\n')
		if end < 0 {
			return 0, errNotWhole
		}
		s.buf = s.appendFrame(s.buf, p[n:n+end])
		n += end + 1
		s.ends, s.lineEnds = append(s.ends, len(s.buf)), append(s.lineEnds, n)
	}
	sent, err := s.conn.Write(s.buf)
	taken := 0
	for i, end := range s.ends {
		if end <= sent {
			taken = s.lineEnds[i]
		}
	}
	return taken, err
}

// frameRoom is for the digits of a length and a space.
const frameRoom = 9

// appendFrame appends a message with its length before it or, on a socket of this
// host, where receivers want it so, with a newline after it.
func (s *Sink) appendFrame(b, line []byte) []byte {
	if s.o.Network == "unix" {
		return append(s.appendMessage(b, line), '\n')
	}
	start := len(b)
	b = append(b, "         "[:frameRoom]...)
	b = s.appendMessage(b, line)
	var digits [frameRoom]byte
	length := append(strconv.AppendInt(digits[:0], int64(len(b)-start-frameRoom), 10), ' ')
	copy(b[start:], length)
	return append(b[:start+len(length)], b[start+frameRoom:]...)
}

// appendMessage appends a message (RFC 5424 section 6). MSG has no byte order
// mark: a receiver that hands JSON on would hand it on too.
func (s *Sink) appendMessage(b, line []byte) []byte {
	h := &s.head
	h.Read(line)
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(s.o.Facility*8+audit.Severity(h)), 10)
	b = append(b, ">1 "...)
	b = appendTime(b, h.Time)
	b = append(b, ' ')
	b = append(b, s.host...)
	b = append(b, " sallyport "...)
	b = append(b, s.pid...)
	b = append(b, ' ')
	if len(h.Kind) == 0 {
		b = append(b, '-')
	}
	b = append(b, h.Kind...)
	// 32473 is the enterprise number for examples (RFC 5612): we have none.
	b = append(b, " [sallyport@32473"...)
	b = appendParam(b, " event=\"", h.Event)
	b = appendParam(b, " verdict=\"", h.Verdict)
	b = appendParam(b, " reason=\"", h.Reason)
	b = appendParam(b, " rule=\"", h.Rule)
	b = appendParam(b, " workload=\"", h.Workload)
	b = append(b, "] "...)
	return append(b, line...)
}

// appendTime cuts the time to microseconds, which is the most that RFC 5424
// section 6.2.3 allows.
func appendTime(b, t []byte) []byte {
	const digits = len("2006-01-02T15:04:05.000000")
	if len(t) < digits {
		return append(b, '-')
	}
	return append(append(b, t[:digits]...), 'Z')
}

// appendParam appends a PARAM-VALUE (section 6.3.3). Control characters, which it
// may hold, become spaces: many receivers take a newline for the end.
func appendParam(b []byte, name string, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	b = append(b, name...)
	for i := 0; i < len(value); {
		r, size := utf8.DecodeRune(value[i:])
		switch {
		case r < ' ' || r == 0x7f:
			b = append(b, ' ')
		case r == '"' || r == '\\' || r == ']':
			b = append(b, '\\', byte(r))
		default:
			b = utf8.AppendRune(b, r)
		}
		i += size
	}
	return append(b, '"')
}
