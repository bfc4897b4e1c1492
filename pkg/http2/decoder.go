package http2

import (
	"golang.org/x/net/http2/hpack"

	"sallyport/pkg/exchange"
)

// A decoder makes header lists of the fragments of header blocks.
type decoder struct {
	hpack *hpack.Decoder
	known *[knownFields]exchange.Field
	// open is the list of the block that is being read, nil between blocks.
	open  *block
	id    uint32
	flags uint8
	// bytes and frames of it so far.
	bytes, frames int
}

func (d *decoder) init(c *conn) {
	d.hpack = hpack.NewDecoder(tableSize, d.emit)
	d.known = new([knownFields]exchange.Field)
	// Longer strings cannot come within maxBlock: Huffman's shortest code has
	// five bits.
	d.hpack.SetMaxStringLength(maxBlock * 8 / 5)
}

func (d *decoder) emit(f hpack.HeaderField) {
	if !d.open.add(f, d.known) {
		d.hpack.SetEmitEnabled(false)
	}
}

func (c *conn) onHeaders(h frameHeader, p []byte) error {
	if h.id == 0 {
		return fault(ProtocolFault, "HEADERS without a stream")
	}
	p, ok := unpad(h, p)
	if !ok {
		return fault(ProtocolFault, "padding as long as its frame")
	}
	if h.flags&flagPriority != 0 {
		if len(p) < 5 {
			return fault(FrameSizeError, "HEADERS too short for its priority")
		}
		p = p[5:]
	}
	d := &c.dec
	d.open, d.id, d.flags, d.bytes, d.frames = c.codec.getBlock(), h.id, h.flags, 0, 0
	d.hpack.SetEmitEnabled(true)
	return c.fragment(h, p)
}

func (c *conn) onContinuation(h frameHeader, p []byte) error {
	d := &c.dec
	if d.open == nil {
		return fault(ProtocolFault, "CONTINUATION without HEADERS")
	}
	if d.frames++; d.frames > maxContinuations {
		return flood(ContinuationFlood, "header block in too many frames")
	}
	return c.fragment(h, p)
}

func (c *conn) fragment(h frameHeader, p []byte) error {
	d := &c.dec
	if d.bytes += len(p); d.bytes > maxBlock {
		return flood(ContinuationFlood, "header block of too many bytes")
	}
	if _, err := d.hpack.Write(p); err != nil {
		return fault(CompressionError, "header block that cannot be decoded")
	}
	if h.flags&flagEndHeaders == 0 {
		return nil
	}
	if err := d.hpack.Close(); err != nil {
		return fault(CompressionError, "header block that ends within a field")
	}
	b := d.open
	d.open = nil
	if b.over {
		c.codec.counters.add(HeaderList)
	}
	end := d.flags&flagEndStream != 0
	if c.srv != nil {
		return c.srv.onBlock(d.id, b, end)
	}
	return c.cli.onBlock(d.id, b, end)
}
