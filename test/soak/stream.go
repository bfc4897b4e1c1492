package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
)

// newStream is an endless stream of bytes; equal seeds give equal streams.
func newStream(seed uint64) io.Reader {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// A comparing reader reads a body of a stream and stops at the first byte that
// is another one.
type comparing struct {
	want io.Reader
	n    int64
	buf  []byte
}

func newComparing(seed uint64) *comparing {
	return &comparing{want: newStream(seed), buf: make([]byte, 16<<10)}
}

// A wrongError says that bytes are not those that were sent: the worst that can
// happen.
type wrongError struct{ at int64 }

func (e *wrongError) Error() string {
	return fmt.Sprintf("WRONG BYTES somewhere after byte %d", e.at)
}

// Write compares the next bytes.
func (c *comparing) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		k := min(len(p)-done, len(c.buf))
		io.ReadFull(c.want, c.buf[:k])
		if !bytes.Equal(c.buf[:k], p[done:done+k]) {
			return done, &wrongError{c.n}
		}
		done += k
		c.n += int64(k)
	}
	return len(p), nil
}
