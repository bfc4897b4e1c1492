// Package journald is the sink "journald": it speaks the native protocol of
// systemd's journal (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
package journald

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// Socket is where the journal listens.
const Socket = "/run/systemd/journal/socket"

// sendTimeout bounds the wait for a journal that does not read.
const sendTimeout = time.Second

// A Sink writes each event as an entry: MESSAGE is its line, and what a reader
// filters by is in SALLYPORT_KIND, SALLYPORT_VERDICT, SALLYPORT_REASON,
// SALLYPORT_RULE, SALLYPORT_WORKLOAD and SALLYPORT_EVENT. PRIORITY is that of
// syslog.
type Sink struct {
	path string
	conn *net.UnixConn
	head audit.Head
	buf  []byte
}

var _ audit.Sink = (*Sink)(nil)

// New makes a sink; path is usually Socket. It connects with the first event,
// and again whenever the journal was away.
func New(path string) *Sink { return &Sink{path: path} }

// Name implements audit.Sink.
func (s *Sink) Name() string { return "journald" }

// Write implements audit.Sink. Every line is one datagram: taken whole or not.
func (s *Sink) Write(p []byte) (n int, err error) {
	if s.conn == nil {
		if s.conn, err = net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.path, Net: "unixgram"}); err != nil {
			return 0, fmt.Errorf("journal: %w", err)
		}
	}
	for n < len(p) {
		end := bytes.IndexByte(p[n:], '\n')
		if end < 0 {
			return n, errors.New("journal: not a whole line")
		}
		s.buf = s.appendEntry(s.buf[:0], p[n:n+end])
		if err := s.send(s.buf); err != nil {
			s.conn.Close()
			s.conn = nil
			return n, fmt.Errorf("journal: %w", err)
		}
		n += end + 1
	}
	if cap(s.buf) > 1<<20 {
		s.buf = nil
	}
	return n, nil
}

// Close closes the connection.
func (s *Sink) Close() error {
	if s.conn == nil {
		return nil
	}
	return s.conn.Close()
}

func (s *Sink) appendEntry(b, line []byte) []byte {
	h := &s.head
	h.Read(line)
	b = append(b, "SYSLOG_IDENTIFIER=sallyport\nPRIORITY="...)
	b = append(b, byte('0'+audit.Severity(h)), '\n')
	b = appendField(b, "SALLYPORT_KIND", h.Kind)
	b = appendField(b, "SALLYPORT_EVENT", h.Event)
	b = appendField(b, "SALLYPORT_VERDICT", h.Verdict)
	b = appendField(b, "SALLYPORT_REASON", h.Reason)
	b = appendField(b, "SALLYPORT_RULE", h.Rule)
	b = appendField(b, "SALLYPORT_WORKLOAD", h.Workload)
	return appendField(b, "MESSAGE", line)
}

// appendField writes a value with a newline in it by its length: as text, what
// follows the newline would be a field of the workload's choice.
func appendField(b []byte, name string, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	b = append(b, name...)
	if bytes.IndexByte(value, '\n') < 0 {
		b = append(b, '=')
	} else {
		b = append(b, '\n')
		b = binary.LittleEndian.AppendUint64(b, uint64(len(value)))
	}
	b = append(b, value...)
	return append(b, '\n')
}

// send sends an entry. One that is too large for a datagram goes as a sealed
// memory file, as the protocol demands; the worker could make no other file.
func (s *Sink) send(entry []byte) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(entry)
	if !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.ENOBUFS) {
		return err
	}
	file, err := memory(entry)
	if err != nil {
		return err
	}
	defer unix.Close(file)
	return s.pass(file)
}

// pass sends a descriptor alone. The net package sends none on a connected
// datagram socket.
func (s *Sink) pass(file int) error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), nil, unix.UnixRights(file), nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, sent)
}

// memory gives a descriptor of a memory file that nobody can change any more.
func memory(content []byte) (fd int, err error) {
	fd, err = unix.MemfdCreate("sallyport-audit", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	for len(content) > 0 && err == nil {
		var n int
		n, err = unix.Write(fd, content)
		content = content[max(n, 0):]
		if errors.Is(err, unix.EINTR) {
			err = nil
		}
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("memory file: %w", err)
	}
	return fd, nil
}
