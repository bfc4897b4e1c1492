package http1

import (
	"bytes"
	"io"
	"net"

	"sallyport/pkg/exchange"
)

// A reader takes heads off a connection. While it waits for the first byte of
// one it holds no arena.
type reader struct {
	codec *Codec
	conn  net.Conn
	a     *arena
	// a.buf[r:w] is what was read and not yet understood.
	r, w int
	// first takes the first bytes of a message, so that an idle connection
	// needs nothing more. The rest of the same TLS record costs no system call.
	first [16]byte
}

func (rd *reader) buffered() int { return rd.w - rd.r }

// release gives the arena back; what was parsed stays readable.
func (rd *reader) release() {
	if rd.a != nil {
		rd.codec.putArena(rd.a)
		rd.a, rd.r, rd.w = nil, 0, 0
	}
}

// wait returns when at least one byte is here.
func (rd *reader) wait() error {
	if rd.r < rd.w {
		return nil
	}
	rd.release()
	n, err := exchange.ReadSome(rd.conn, rd.first[:])
	if err != nil {
		return err
	}
	rd.put(rd.first[:n])
	return nil
}

// put makes p, of which the reader keeps nothing, the next bytes to be read.
// Nothing else may be buffered.
func (rd *reader) put(p []byte) {
	if len(p) == 0 {
		return
	}
	if rd.a == nil {
		rd.a = rd.codec.getArena()
	}
	if len(rd.a.buf)-rd.a.frozen < len(p) {
		rd.a = &arena{buf: make([]byte, len(p)+arenaRoom)}
	}
	rd.r = rd.a.frozen
	rd.w = rd.r + copy(rd.a.buf[rd.r:], p)
}

// fill reads more bytes behind those that are here, which may move.
func (rd *reader) fill() error {
	rd.makeRoom()
	n, err := exchange.ReadSome(rd.conn, rd.a.buf[rd.w:])
	rd.w += n
	return err
}

func (rd *reader) makeRoom() {
	if rd.a == nil {
		rd.a = rd.codec.getArena()
		rd.r, rd.w = rd.a.frozen, rd.a.frozen
	}
	a := rd.a
	if rd.r == rd.w {
		rd.r, rd.w = a.frozen, a.frozen
	}
	if len(a.buf)-rd.w >= arenaRoom {
		return
	}
	unread := a.buf[rd.r:rd.w]
	if len(a.buf)-a.frozen-len(unread) >= arenaRoom {
		copy(a.buf[a.frozen:], unread)
		rd.r, rd.w = a.frozen, a.frozen+len(unread)
		return
	}
	next := rd.codec.getArena()
	if len(next.buf)-next.frozen-len(unread) < arenaRoom {
		// A head larger than an arena has one of its own, which is not lent on.
		next = &arena{buf: make([]byte, 2*len(unread)+arenaSize)}
	}
	rd.r = next.frozen
	rd.w = rd.r + copy(next.buf[rd.r:], unread)
	rd.a = next
	rd.codec.putArena(a)
}

// head reads a whole header section, its first line and the empty line
// included, and freezes it. One empty line before it is skipped where the
// message is a request (RFC 9112 section 2.2). io.EOF means that the
// connection ended before the first byte, io.ErrUnexpectedEOF within.
func (rd *reader) head(skipEmptyLine bool) ([]byte, error) {
	var line, scanned int // offsets from rd.r: start of the line, where to look on
	for {
		for {
			unread := rd.a.unread(rd)
			i := bytes.IndexByte(unread[scanned:], '\n')
			if i < 0 {
				scanned = len(unread)
				break
			}
			end := scanned + i
			if end == line || unread[end-1] != '\r' {
				return nil, malformed("line that ends in a bare LF")
			}
			scanned = end + 1
			if scanned > maxHead {
				break
			}
			if end-1 > line {
				line = scanned
				continue
			}
			if line > 0 {
				head := unread[:scanned:scanned]
				rd.r += scanned
				rd.a.frozen = rd.r
				return head, nil
			}
			if !skipEmptyLine {
				return nil, malformed("empty line in place of the first line")
			}
			skipEmptyLine = false
			rd.r += scanned
			scanned = 0
		}
		if scanned > maxHead {
			return nil, malformed("header section over 64 KiB")
		}
		if err := rd.fill(); err != nil {
			if err == io.EOF && rd.buffered() > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// unread gives the reader's unread bytes; a may be nil.
func (a *arena) unread(rd *reader) []byte {
	if a == nil {
		return nil
	}
	return a.buf[rd.r:rd.w]
}
