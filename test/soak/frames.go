package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// Opcodes of frames (RFC 6455 section 5.2).
const (
	opBinary = 2
	opClose  = 8
)

// maxFrame is more than any frame of this program has.
const maxFrame = 1 << 20

// writeFrame writes a frame with one bit of mask per byte, so that both ends
// see any that is lost.
func writeFrame(w *bufio.Writer, op byte, p []byte, masked bool) error {
	head := []byte{0x80 | op}
	switch {
	case len(p) < 126:
		head = append(head, byte(len(p)))
	case len(p) < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 126), uint16(len(p)))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 127), uint64(len(p)))
	}
	if masked {
		head[1] |= 0x80
		head = append(head, 0x55, 0xaa, 0x0f, 0xf0)
		p = append([]byte(nil), p...)
		mask(p, head[len(head)-4:])
	}
	w.Write(head)
	_, err := w.Write(p)
	return err
}

func mask(p, key []byte) {
	for i := range p {
		p[i] ^= key[i%4]
	}
}

func readFrame(r *bufio.Reader) (op byte, p []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	if head[0]&0xf0 != 0x80 {
		return 0, nil, errors.New("WRONG BYTES in the head of a frame")
	}
	length := uint64(head[1] & 0x7f)
	switch length {
	case 126:
		var b [2]byte
		_, err = io.ReadFull(r, b[:])
		length = uint64(binary.BigEndian.Uint16(b[:]))
	case 127:
		var b [8]byte
		_, err = io.ReadFull(r, b[:])
		length = binary.BigEndian.Uint64(b[:])
	}
	if err != nil {
		return 0, nil, err
	}
	if length > maxFrame {
		return 0, nil, errors.New("WRONG BYTES in the length of a frame")
	}
	var key [4]byte
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, key[:]); err != nil {
			return 0, nil, err
		}
	}
	p = make([]byte, length)
	if _, err := io.ReadFull(r, p); err != nil {
		return 0, nil, err
	}
	mask(p, key[:])
	return head[0] & 0x0f, p, nil
}
