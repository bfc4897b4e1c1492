// Package systemdtest is a stand-in for systemd's D-Bus interface
// (org.freedesktop.systemd1(5)), for tests where systemd is not process 1: it
// listens where systemd does, answers what package systemd asks, and remembers it.
package systemdtest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

const (
	manager = "org.freedesktop.systemd1.Manager"
	root    = dbus.ObjectPath("/org/freedesktop/systemd1")
)

// A Server answers as systemd does. Set what it does before it is asked.
type Server struct {
	t        testing.TB
	listener net.Listener
	serving  sync.WaitGroup

	// Job is what a job does to a unit: verb is start, stop, restart, try-restart,
	// reload or transient. Its word is the job's result, "done" where it went well;
	// nil leaves every job well. It is called one at a time.
	Job func(verb, unit string, properties map[string]any) string
	// Enable and Disable are told of unit files; nil: nobody is.
	Enable, Disable func(units []string)

	mu    sync.Mutex
	conns map[*conn]struct{}
	units map[string]map[string]any
	calls []string
	jobs  uint32
}

// Start listens on the socket at path, which is /run/systemd/private of the host
// under test, and ends with the test.
func Start(t testing.TB, path string) *Server {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, listener: l, conns: make(map[*conn]struct{}), units: make(map[string]map[string]any)}
	s.serving.Go(s.accept)
	t.Cleanup(s.close)
	return s
}

func (s *Server) close() {
	s.listener.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
}

// Put makes a unit known, with the properties that systemd gives of it; Id and
// LoadState=loaded are added where they are missing.
func (s *Server) Put(unit string, properties map[string]any) {
	known := map[string]any{"Id": unit, "LoadState": "loaded", "ActiveState": "inactive"}
	for k, v := range properties {
		known[k] = v
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.units[unit] = known
}

// Forget makes a unit unknown.
func (s *Server) Forget(unit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.units, unit)
}

// Property gives a property of a unit; nil where there is none.
func (s *Server) Property(unit, name string) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.units[unit][name]
}

// Calls are the calls that change something, in order, each as "Method unit…".
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		client := &conn{Conn: c, reader: bufio.NewReader(c)}
		s.mu.Lock()
		s.conns[client] = struct{}{}
		s.mu.Unlock()
		s.serving.Go(func() {
			defer c.Close()
			if err := client.authenticate(); err == nil {
				s.serve(client)
			}
			s.mu.Lock()
			delete(s.conns, client)
			s.mu.Unlock()
		})
	}
}

// A conn is one client.
type conn struct {
	net.Conn
	reader *bufio.Reader
	mu     sync.Mutex
	serial uint32
}

// authenticate is the server's side of SASL (D-Bus specification, Authentication
// Protocol): it believes everybody.
func (c *conn) authenticate() error {
	if b, err := c.reader.ReadByte(); err != nil || b != 0 {
		return fmt.Errorf("no leading zero: %w", err)
	}
	for {
		line, err := c.reader.ReadString('\n')
		if err != nil {
			return err
		}
		answer := "ERROR"
		switch word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word {
		case "AUTH":
			answer = "OK 0123456789abcdef0123456789abcdef"
			if strings.TrimSpace(line) == "AUTH" {
				answer = "REJECTED EXTERNAL"
			}
		case "NEGOTIATE_UNIX_FD":
			answer = "AGREE_UNIX_FD"
		case "BEGIN":
			return nil
		}
		if _, err := io.WriteString(c, answer+"\r\n"); err != nil {
			return err
		}
	}
}

// send numbers a message and writes it as a whole.
func (c *conn) send(m *dbus.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serial++
	return encode(c, m, c.serial)
}

// encode writes a message under a serial number, which the library keeps to itself:
// it is the third word of the header.
func encode(w io.Writer, m *dbus.Message, serial uint32) error {
	var b strings.Builder
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		return err
	}
	raw := []byte(b.String())
	binary.LittleEndian.PutUint32(raw[8:], serial)
	_, err := w.Write(raw)
	return err
}

// signature describes a body, as a header field.
func describe(m *dbus.Message, body []any) {
	m.Body = body
	if len(body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
}

// emit tells every client of a signal: systemd tells all that are on its private
// socket.
func (s *Server) emit(name string, body ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		m := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath:      dbus.MakeVariant(root),
			dbus.FieldInterface: dbus.MakeVariant(manager),
			dbus.FieldMember:    dbus.MakeVariant(name),
		}}
		describe(m, body)
		c.send(m) // one that has gone misses nothing
	}
}

// serve answers a client until it goes.
func (s *Server) serve(c *conn) {
	for {
		m, err := dbus.DecodeMessage(c.reader)
		if err != nil {
			return
		}
		if m.Type != dbus.TypeMethodCall {
			continue
		}
		body, after, failure := s.answer(m)
		reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(m.Serial()),
			// On the private socket nobody has a name; the library wants one.
			dbus.FieldSender: dbus.MakeVariant("org.freedesktop.systemd1"),
		}}
		if failure != "" {
			reply.Type = dbus.TypeError
			reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant(failure)
			body = []any{failure}
		}
		describe(reply, body)
		if m.Flags&dbus.FlagNoReplyExpected == 0 {
			if err := c.send(reply); err != nil {
				return
			}
		}
		if after != nil {
			after()
		}
	}
}
