package audit

import (
	"crypto/sha256"
	"encoding/hex"
)

// A chain links each line to the one before it: `prev` repeats the hash of the
// line before, and `hash` is the SHA-256, in hexadecimal, of the line's own
// bytes from its opening brace up to and without `,"hash":`. So `prev` is
// covered, and a line that was changed, removed or moved breaks the chain. The
// chain runs on through rotation and restart; only the first line of all has no
// `prev`. It shows tampering by whoever cannot rewrite everything after it; it
// is no signature.
type chain struct {
	last []byte // hash of the last line, 64 digits, or empty
}

const (
	hashDigits = 2 * sha256.Size
	hashStart  = "," + nameHash + `"`
	hashEnd    = "\"}\n"
	// EndBytes is how much of the end of a line the chain needs to go on.
	EndBytes = len(hashStart) + hashDigits + len(hashEnd)
	// chainBytes is what the chain adds to an event, the newline among it.
	chainBytes = len(",") + len(namePrev) + len(`""`) + hashDigits + EndBytes
)

// resume continues from the end of a whole line.
func (c *chain) resume(end []byte) {
	c.last = append(make([]byte, 0, hashDigits), lineHash(end)...)
}

// appendLine appends an encoded event (without closing brace) as a complete
// line.
func (c *chain) appendLine(b, event []byte) []byte {
	start := len(b)
	b = append(b, event...)
	if len(c.last) > 0 {
		b = comma(b)
		b = append(b, namePrev...)
		b = append(b, '"')
		b = append(b, c.last...)
		b = append(b, '"')
	}
	sum := sha256.Sum256(b[start:])
	c.last = hex.AppendEncode(c.last[:0], sum[:])
	b = append(b, hashStart...)
	b = append(b, c.last...)
	return append(b, hashEnd...)
}

// lineHash gives the hash at the end of a whole line with its newline, or nil
// where there is none.
func lineHash(line []byte) []byte {
	if len(line) < EndBytes {
		return nil
	}
	end := line[len(line)-EndBytes:]
	digits := end[len(hashStart) : len(hashStart)+hashDigits]
	if string(end[:len(hashStart)]) != hashStart || string(end[len(hashStart)+hashDigits:]) != hashEnd {
		return nil
	}
	for _, c := range digits {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return nil
		}
	}
	return digits
}
