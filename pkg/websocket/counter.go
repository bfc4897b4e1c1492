// Package websocket follows the frames of WebSocket connections (RFC 6455) as
// they pass, without changing or holding a byte: it counts messages and reads
// the code with which a connection was closed. The same frames are carried by
// an upgraded HTTP/1.1 connection and by a stream of HTTP/2 (RFC 8441).
package websocket

import "encoding/binary"

// Opcodes (RFC 6455 section 11.8).
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// Close codes that never stand in a frame and say how a connection ended
// (RFC 6455 section 7.4.1).
const (
	// NoStatus is a Close frame without a code.
	NoStatus = 1005
	// Abnormal is an end without a Close frame.
	Abnormal = 1006
)

const (
	// shortHeader is a header without extended length and masking key.
	shortHeader = 2
	// maxHeader is the longest header (RFC 6455 section 5.2).
	maxHeader = shortHeader + 8 + 4
	// maxControl bounds the payload of a control frame (section 5.5).
	maxControl = 125
)

// A Counter follows the frames of one direction. The zero value is ready. One
// goroutine writes; Messages is for whoever has waited for it.
//
// Extensions such as permessage-deflate change payloads and reserved bits, not
// the frames, and need no knowledge here.
type Counter struct {
	// messages and frames are those that passed whole; frames are control frames
	// too.
	messages, frames uint64

	header  [maxHeader]byte // of a frame whose header came in pieces
	have    int
	remain  uint64 // of the current frame's payload
	opcode  byte
	final   bool
	masked  bool
	inside  bool // the current payload has not ended
	message bool // a fragmented message has not ended

	key  [4]byte
	code [2]byte // of a Close frame, unmasked
	read int     // bytes of code that are here

	// closed: a Close frame passed; nothing after it is a frame (section 5.5.1).
	closed bool
	// lost: something came that RFC 6455 allows in no frame.
	lost bool
	bare bool // the first frame was not masked
	// status is the code of the Close frame, NoStatus where it had none, 0 without
	// such a frame.
	status uint16
}

// write takes the next bytes of the direction and keeps nothing of p.
func (c *Counter) write(p []byte) {
	for len(p) > 0 && !c.closed && !c.lost {
		if c.inside {
			p = c.payload(p)
			continue
		}
		p = c.begin(p)
	}
}

// Messages gives the text and binary messages that passed whole, however many
// frames they had.
func (c *Counter) Messages() uint64 { return c.messages }

// payload takes bytes of the current frame's payload and gives the rest.
func (c *Counter) payload(p []byte) []byte {
	k := min(c.remain, uint64(len(p)))
	if c.opcode == opClose {
		c.readCode(p[:k])
	}
	if c.remain -= k; c.remain == 0 {
		c.end()
	}
	return p[k:]
}

// begin takes bytes of a header and gives the rest.
func (c *Counter) begin(p []byte) []byte {
	if c.have == 0 && len(p) >= maxHeader {
		return p[c.frame(p, headerSize(p[1])):]
	}
	for c.have < shortHeader || c.have < headerSize(c.header[1]) {
		if len(p) == 0 {
			return nil
		}
		c.header[c.have] = p[0]
		c.have, p = c.have+1, p[1:]
		if c.have == 1 && !c.opens(c.header[0]) {
			// What is no frame shows in its first byte, also where that comes alone.
			c.lost = true
			return nil
		}
	}
	c.have = 0
	c.frame(c.header[:], headerSize(c.header[1]))
	return p
}

// headerSize gives the length of a header by its second byte.
func headerSize(second byte) int {
	size := shortHeader
	switch second & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if second&0x80 != 0 {
		size += 4
	}
	return size
}

// opens reports whether a frame may begin with this byte where the direction
// stands (sections 5.4 and 5.5). The reserved bits belong to extensions.
func (c *Counter) opens(first byte) bool {
	switch first & 0x0f {
	case opText, opBinary:
		return !c.message
	case opContinuation:
		return c.message
	case opClose, opPing, opPong:
		return first&0x80 != 0
	default:
		return false
	}
}

// frame reads a whole header of that size and gives the size. At least
// maxHeader bytes are in h.
func (c *Counter) frame(h []byte, size int) int {
	first, second := h[0], h[1]
	length, minimal := uint64(second&0x7f), true
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(h[2:]))
		minimal = length > 125
	case 127:
		length = binary.BigEndian.Uint64(h[2:])
		// The highest bit must be 0 (section 5.2).
		minimal = length > 0xffff && length < 1<<63
	}
	c.opcode, c.final = first&0x0f, first&0x80 != 0
	if !c.opens(first) || !minimal || c.opcode >= opClose && length > maxControl || c.opcode == opClose && length == 1 {
		c.lost = true
		return size
	}
	if c.masked = second&0x80 != 0; c.masked {
		copy(c.key[:], h[size-4:size])
	} else if c.frames == 0 {
		c.bare = true
	}
	c.read = 0
	if c.remain = length; length == 0 {
		c.end()
		return size
	}
	c.inside = true
	return size
}

// readCode takes the first two bytes of a Close frame's payload.
func (c *Counter) readCode(p []byte) {
	for i := 0; i < len(p) && c.read < len(c.code); i++ {
		c.code[c.read] = p[i]
		if c.masked {
			c.code[c.read] ^= c.key[c.read]
		}
		c.read++
	}
}

// end takes note of a frame that passed whole.
func (c *Counter) end() {
	c.inside = false
	c.frames++
	switch {
	case c.opcode == opClose:
		c.closed = true
		c.status = NoStatus
		if c.read == len(c.code) {
			c.status = binary.BigEndian.Uint16(c.code[:])
		}
	case c.opcode >= opClose:
	case c.final:
		c.message = false
		c.messages++
	default:
		c.message = true
	}
}
