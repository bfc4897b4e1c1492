package exchange

import (
	"io"
	"net"
)

// What both codecs do to the connection below them.

// maxEmptyReads is how often a reader may give neither bytes nor an error before
// it counts as broken, as in bufio.
const maxEmptyReads = 100

// ReadSome reads at least one byte or gives an error, as io.Reader may do
// neither; that of a reader that never does either is io.ErrNoProgress.
func ReadSome(r io.Reader, p []byte) (int, error) {
	for range maxEmptyReads {
		n, err := r.Read(p)
		if n > 0 {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// Innermost gives the connection under all layers such as TLS.
func Innermost(conn net.Conn) net.Conn {
	for {
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return conn
		}
		conn = inner.NetConn()
	}
}

// Abort closes a connection by a reset; in TLS without the alert that would
// vouch for the end (RFC 8446 section 6.1).
func Abort(conn net.Conn) {
	conn = Innermost(conn)
	if tcp, ok := conn.(interface{ SetLinger(int) error }); ok {
		// Failing means that the connection is closed.
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
