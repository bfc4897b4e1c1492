package http1

import (
	"sallyport/pkg/exchange"
)

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer
	chunkDone
)

// A chunkDecoder takes the chunked coding off a body (RFC 9112 section 7.1),
// piece by piece and in place, so that no piece waits for the next one.
type chunkDecoder struct {
	state   chunkState
	digits  uint8
	remain  int64 // of the current chunk, in bytes
	line    int   // length of the current chunk line
	ext     int   // length of all extensions
	section []byte
	start   int // of the current line in section
}

// decode moves the content in p to its front and gives its length, and how
// much of p belongs to the body: less than all only when the body has ended.
func (d *chunkDecoder) decode(p []byte) (n, used int, err error) {
	for used < len(p) {
		if d.state == chunkData {
			k := int(min(d.remain, int64(len(p)-used)))
			if n != used {
				copy(p[n:], p[used:used+k])
			}
			n, used = n+k, used+k
			if d.remain -= int64(k); d.remain == 0 {
				d.state = chunkDataCR
			}
			continue
		}
		c := p[used]
		used++
		if err := d.step(c); err != nil {
			return n, used, err
		}
		if d.state == chunkDone {
			return n, used, nil
		}
	}
	return n, used, nil
}

// step takes one byte that is not content.
func (d *chunkDecoder) step(c byte) error {
	if d.state <= chunkSizeLF {
		if d.line++; d.line > maxChunkLine {
			return malformed("chunk line over 4 KiB")
		}
	}
	switch d.state {
	case chunkSize:
		if v, ok := hexDigit(c); ok {
			// 15 digits fit an int64.
			if d.digits++; d.digits > 15 {
				return malformed("chunk size with too many digits")
			}
			d.remain = d.remain<<4 | int64(v)
			return nil
		}
		if d.digits == 0 {
			return malformed("chunk size that is not a hexadecimal number")
		}
		return d.afterSize(c)
	case chunkExtension:
		switch {
		case c == '\r':
			d.state = chunkSizeLF
		case classes[c]&isValue == 0:
			return malformed("control character or bare LF in a chunk extension")
		default:
			if d.ext++; d.ext > maxExtensions {
				return malformed("chunk extensions over 64 KiB")
			}
		}
	case chunkSizeLF:
		if c != '\n' {
			return malformed("lone CR in a chunk line")
		}
		d.state = chunkData
		if d.remain == 0 {
			d.state = chunkTrailer
		}
		d.digits, d.line = 0, 0
	case chunkDataCR:
		if c != '\r' {
			return malformed("chunk longer than its size")
		}
		d.state = chunkDataLF
	case chunkDataLF:
		if c != '\n' {
			return malformed("chunk longer than its size")
		}
		d.state = chunkSize
	case chunkTrailer:
		return d.trailerByte(c)
	}
	return nil
}

func (d *chunkDecoder) afterSize(c byte) error {
	switch c {
	case '\r':
		d.state = chunkSizeLF
	case ';':
		d.state = chunkExtension
	default:
		// Whitespace before an extension is allowed by RFC 9112 section 7.1.1
		// only to old senders, and refused by other parsers.
		return malformed("chunk size that is not a hexadecimal number")
	}
	return nil
}

func (d *chunkDecoder) trailerByte(c byte) error {
	if len(d.section) == maxTrailer {
		return malformed("trailer section over 16 KiB")
	}
	d.section = append(d.section, c)
	if c != '\n' {
		return nil
	}
	end := len(d.section) - 1
	if end == d.start || d.section[end-1] != '\r' {
		return malformed("trailer line that ends in a bare LF")
	}
	if end-1 == d.start {
		d.state = chunkDone
	}
	d.start = end + 1
	return nil
}

// trailer parses the trailer section of a body that has ended into h. The
// section is never written again.
func (d *chunkDecoder) trailer(h *exchange.Header, request bool) error {
	if len(d.section) <= len("\r\n") {
		return nil
	}
	if err := parseFields(d.section, h, maxTrailerFields); err != nil {
		return err
	}
	for i := range h.Len() {
		if h.At(i).ID.BannedFromTrailer(request) {
			return malformed("trailer field that frames, routes or authorises the message")
		}
	}
	h.DeleteFunc(func(f *exchange.Field) bool {
		return f.ID.HopByHop() || f.ID == exchange.AltSvc
	})
	return nil
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	default:
		return 0, false
	}
}

// appendChunkLine appends the line before n bytes of content.
func appendChunkLine(b []byte, n int) []byte {
	const digits = "0123456789abcdef"
	shift := 0
	for n>>shift > 0xf {
		shift += 4
	}
	for ; shift >= 0; shift -= 4 {
		b = append(b, digits[n>>shift&0xf])
	}
	return append(b, '\r', '\n')
}
