// Package wire carries calls and descriptors between the two processes of
// sallyport, and between `exec` and the keeper: JSON messages over a
// SOCK_SEQPACKET socket pair, one message per packet, descriptors beside them
// (unix(7), SCM_RIGHTS).
package wire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"
)

const (
	// maxInline is the largest payload that travels in the packet itself. A
	// larger one travels in a sealed memfd, because a packet has to fit into the
	// socket's send buffer (212,992 bytes by default).
	maxInline = 32 << 10
	// maxPayload bounds what a peer can make us read into memory.
	maxPayload = 64 << 20
	// maxFiles is below the kernel's SCM_MAX_FD of 253, the memfd included.
	maxFiles = 250
)

// ErrTooLarge says that a message is larger than both sides agree to carry.
var ErrTooLarge = errors.New("wire: message too large")

// ErrEncode says that a message cannot be written; nothing was sent.
var ErrEncode = errors.New("wire: cannot be encoded")

// A Conn sends and receives messages. Send may be called from any goroutine;
// Receive from one at a time.
type Conn struct {
	sock    *net.UnixConn
	sending sync.Mutex
	packet  []byte
	oob     []byte
	limits  Limits
}

// Limits are for a peer that is not trusted. The zero value sets none but those
// of the package.
type Limits struct {
	// Payload bounds a received body, in bytes.
	Payload int64
	// SendTimeout bounds one Send. A peer that takes nothing for so long is gone:
	// the connection is closed, and whoever waits for it goes on.
	SendTimeout time.Duration
	// NoFiles closes every descriptor that arrives.
	NoFiles bool
}

// SetLimits must be called before anything else is.
func (c *Conn) SetLimits(l Limits) { c.limits = l }

// NewConn takes over a connected SOCK_SEQPACKET descriptor. The file is closed
// in every case.
func NewConn(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("wire: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("wire: descriptor is a %s socket, want unixpacket", c.LocalAddr().Network())
	}
	return FromUnix(u), nil
}

// FromUnix wraps an accepted or dialled "unixpacket" connection.
func FromUnix(u *net.UnixConn) *Conn {
	return &Conn{sock: u, packet: make([]byte, 2*maxInline), oob: make([]byte, unix.CmsgSpace(maxFiles*4)+unix.CmsgSpace(unix.SizeofUcred))}
}

// Pair makes two connected descriptors, close-on-exec, one for each process.
func Pair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("wire: socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "wire"), os.NewFile(uintptr(fds[1]), "wire"), nil
}

// Socket gives the connection below, for socket options and peer credentials.
func (c *Conn) Socket() *net.UnixConn { return c.sock }

// Close closes the connection; a waiting Receive returns an error.
func (c *Conn) Close() error { return c.sock.Close() }

// A Message is one packet: a method or a reply, its JSON body and descriptors.
type Message struct {
	// ID pairs a reply with its call; 0 for a notice that wants no reply.
	ID uint64 `json:"id,omitzero"`
	// Method is empty in a reply.
	Method string `json:"method,omitzero"`
	// Error is the reply of a call that failed.
	Error string `json:"error,omitzero"`
	// Detached says that the body travels in the last descriptor.
	Detached bool `json:"detached,omitzero"`
	// Body is the method's own argument or result.
	Body jsonBody `json:"body,omitzero"`
	// Files are the descriptors; the receiver owns and closes them.
	Files []*os.File `json:"-"`
	// Sender is the kernel's word about who sent it (SCM_CREDENTIALS); nil where
	// the socket does not ask for it (SO_PASSCRED).
	Sender *unix.Ucred `json:"-"`
}

// Decode reads the body into v; unknown members are an error, since both ends
// are the same binary.
func (m *Message) Decode(v any) error {
	if err := json.Unmarshal(m.Body, v, json.RejectUnknownMembers(true), decoding); err != nil {
		return fmt.Errorf("wire: body of %q: %w", m.Method, err)
	}
	return nil
}

// CloseFiles closes the descriptors of a message that is not wanted.
func (m *Message) CloseFiles() {
	for _, f := range m.Files {
		f.Close()
	}
	m.Files = nil
}

// Send writes one message. The descriptors of m stay the caller's. It fails with
// ErrGone where nobody can receive it any more.
func (c *Conn) Send(m *Message, body any) error {
	out := *m
	if body != nil {
		b, err := json.Marshal(body, encoding)
		if err != nil {
			return fmt.Errorf("%w: %q: %w", ErrEncode, m.Method, err)
		}
		out.Body = b
	}
	files := m.Files
	if len(out.Body) > maxPayload || len(files) >= maxFiles {
		return ErrTooLarge
	}
	if len(out.Body) > maxInline {
		mem, err := detach(out.Body)
		if err != nil {
			return err
		}
		defer mem.Close()
		files = append(files[:len(files):len(files)], mem)
		out.Body, out.Detached = nil, true
	}
	packet, err := json.Marshal(&out, encoding)
	if err != nil {
		return fmt.Errorf("%w: %q: %w", ErrEncode, m.Method, err)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			if fds[i], err = number(f); err != nil {
				return fmt.Errorf("wire: send %q: %w", m.Method, err)
			}
		}
		defer runtime.KeepAlive(files)
		oob = unix.UnixRights(fds...)
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.limits.SendTimeout > 0 {
		if err := c.sock.SetWriteDeadline(time.Now().Add(c.limits.SendTimeout)); err != nil {
			return fmt.Errorf("wire: send %q: %w", m.Method, err)
		}
	}
	if _, _, err := c.sock.WriteMsgUnix(packet, oob, nil); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.sock.Close()
		}
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.ENOTCONN) || errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("%w: send %q: %w", ErrGone, m.Method, err)
		}
		return fmt.Errorf("wire: send %q: %w", m.Method, err)
	}
	return nil
}

// number gives the descriptor of a file. File.Fd would make it blocking, and with
// it every copy that others accept or read on.
func number(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	err = raw.Control(func(n uintptr) { fd = int(n) })
	return fd, err
}

// Receive waits for one message. It returns io.EOF when the peer has gone.
func (c *Conn) Receive() (*Message, error) {
	n, oobn, flags, _, err := c.sock.ReadMsgUnix(c.packet, c.oob)
	if err != nil {
		return nil, err
	}
	files, sender, ferr := received(c.oob[:oobn])
	m := &Message{}
	switch {
	case n == 0:
		err = io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = ErrTooLarge
	case ferr != nil:
		err = ferr
	default:
		err = json.Unmarshal(c.packet[:n], m, json.RejectUnknownMembers(true), decoding)
	}
	m.Files, m.Sender = files, sender
	if err == nil && m.Detached {
		limit := int64(maxPayload)
		if c.limits.Payload > 0 {
			limit = min(limit, c.limits.Payload)
		}
		err = m.attach(limit)
	}
	if c.limits.NoFiles {
		m.CloseFiles()
	}
	if err != nil {
		m.CloseFiles()
		return nil, err
	}
	return m, nil
}

// attach reads a body that travelled in the last descriptor, of at most limit
// bytes.
func (m *Message) attach(limit int64) error {
	if len(m.Files) == 0 {
		return errors.New("wire: detached body without descriptor")
	}
	last := len(m.Files) - 1
	mem := m.Files[last]
	m.Files = m.Files[:last]
	defer mem.Close()
	// Only a sealed memfd: a plain file could change or block under our read.
	seals, err := unix.FcntlInt(mem.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&(unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK) != unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK {
		return errors.New("wire: detached body is not sealed")
	}
	st, err := mem.Stat()
	if err != nil {
		return fmt.Errorf("wire: detached body: %w", err)
	}
	if st.Size() > limit {
		return ErrTooLarge
	}
	body := make([]byte, st.Size())
	if _, err := mem.ReadAt(body, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("wire: detached body: %w", err)
	}
	m.Body = body
	return nil
}

// detach puts a body into a sealed memfd (memfd_create(2), Linux 3.17).
func detach(body []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("sallyport", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("wire: memfd: %w", err)
	}
	mem := os.NewFile(uintptr(fd), "memfd")
	if _, err := mem.Write(body); err != nil {
		mem.Close()
		return nil, fmt.Errorf("wire: memfd: %w", err)
	}
	if _, err := unix.FcntlInt(mem.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		mem.Close()
		return nil, fmt.Errorf("wire: seal: %w", err)
	}
	return mem, nil
}

// received turns control messages into files and the sender's credentials. It
// keeps going on an error so that every descriptor that arrived is closed by
// somebody.
func received(oob []byte) (files []*os.File, sender *unix.Ucred, err error) {
	if len(oob) == 0 {
		return nil, nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, nil, fmt.Errorf("wire: control message: %w", err)
	}
	for i := range msgs {
		switch {
		case msgs[i].Header.Level != unix.SOL_SOCKET:
		case msgs[i].Header.Type == unix.SCM_CREDENTIALS:
			cred, cerr := unix.ParseUnixCredentials(&msgs[i])
			if cerr != nil {
				err = errors.Join(err, fmt.Errorf("wire: credentials: %w", cerr))
			}
			sender = cred
		case msgs[i].Header.Type == unix.SCM_RIGHTS:
			fds, rerr := unix.ParseUnixRights(&msgs[i])
			if rerr != nil {
				err = errors.Join(err, fmt.Errorf("wire: descriptors: %w", rerr))
			}
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				files = append(files, os.NewFile(uintptr(fd), "received"))
			}
		}
	}
	return files, sender, err
}
