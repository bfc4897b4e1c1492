package http2

import "encoding/binary"

// A frameType is a type of frame of RFC 9113 section 6.
type frameType uint8

const (
	frameData frameType = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePushPromise
	framePing
	frameGoAway
	frameWindowUpdate
	frameContinuation
)

// Flags; which of them a frame has depends on its type.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// frameHeaderLen is the size of a frame's header (RFC 9113 section 4.1).
const frameHeaderLen = 9

type frameHeader struct {
	length int
	typ    frameType
	flags  uint8
	id     uint32
}

// parseFrameHeader reads the header at the start of b, which must hold it.
func parseFrameHeader(b []byte) frameHeader {
	_ = b[frameHeaderLen-1]
	return frameHeader{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		typ:    frameType(b[3]),
		flags:  b[4],
		// The reserved bit is ignored (section 4.1).
		id: binary.BigEndian.Uint32(b[5:]) & (1<<31 - 1),
	}
}

func appendFrameHeader(b []byte, length int, typ frameType, flags uint8, id uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), byte(typ), flags,
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

// unpad gives the payload without its padding (RFC 9113 sections 6.1 and 6.2).
func unpad(h frameHeader, p []byte) ([]byte, bool) {
	if h.flags&flagPadded == 0 {
		return p, true
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}

// preface is what a client says first (RFC 9113 section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
