package ratelimit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"sallyport/pkg/config"
)

// The file of counters has two slots, written in turn, so that a write that was
// cut leaves the one before. A slot is a header and what encode gives:
//
//	magic 8 · serial 8 · length 4 · CRC-32C 4 of serial, length and content
const (
	magic      = "sallyrl2"
	headerSize = 24
	// slotSize bounds a snapshot, in bytes. The file has holes where there is less.
	slotSize = 16 << 20
)

// Bounds of what is read; a key is a name or a hash.
const (
	maxText   = 4096
	maxTables = 4096
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamaged says that a slot holds no whole snapshot.
var errDamaged = errors.New("damaged")

// A snapshot is counters as they are in the file.
type snapshot struct {
	tables []savedTable
}

type savedTable struct {
	key      tableKey
	counters []savedCounter
}

type savedCounter struct {
	key    string
	owner  string
	counts [windows]count
	extra  [windows]int64
	life   int64
}

// encode appends the snapshot. Text is its length and its bytes, numbers are
// varints:
//
//	tables, and each: rule place by header, counters, and each:
//	  key owner life, a byte with a bit for each window that follows, start n extra
func (s *snapshot) encode(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(s.tables)))
	for i := range s.tables {
		t := &s.tables[i]
		for _, text := range [...]string{t.key.rule, string(t.key.place), string(t.key.by.By), t.key.by.Header} {
			b = appendText(b, text)
		}
		b = binary.AppendUvarint(b, uint64(len(t.counters)))
		for j := range t.counters {
			b = t.counters[j].append(b)
		}
	}
	return b
}

func (c *savedCounter) append(b []byte) []byte {
	b = appendText(appendText(b, c.key), c.owner)
	b = binary.AppendUvarint(b, uint64(c.life))
	at := len(b)
	b = append(b, 0)
	for w := range windows {
		if c.counts[w].n == 0 && c.extra[w] == 0 {
			continue
		}
		b[at] |= 1 << w
		b = binary.AppendUvarint(b, uint64(c.counts[w].start))
		b = binary.AppendUvarint(b, uint64(c.counts[w].n))
		b = binary.AppendUvarint(b, uint64(c.extra[w]))
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// A reader takes a snapshot apart; the first thing that is wrong makes all that
// follow nothing.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) number() int64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > 1<<62 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return int64(v)
}

func (r *reader) text() string {
	n := r.number()
	if n > maxText || n > int64(len(r.b)) {
		r.b, r.bad = nil, true
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) octet() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// decode reads what encode wrote.
func decode(b []byte) (*snapshot, error) {
	r := &reader{b: b}
	s := &snapshot{}
	for range r.bounded(maxTables) {
		t := savedTable{key: tableKey{rule: r.text(), place: config.CounterPlace(r.text())}}
		t.key.by = config.CounterKey{By: config.CounterBy(r.text()), Header: r.text()}
		for range r.bounded(MaxKeys) {
			t.counters = append(t.counters, r.counter())
			if r.bad {
				return nil, errDamaged
			}
		}
		s.tables = append(s.tables, t)
		if r.bad {
			return nil, errDamaged
		}
	}
	if r.bad || len(r.b) > 0 {
		return nil, errDamaged
	}
	return s, nil
}

func (r *reader) bounded(most int64) int64 {
	n := r.number()
	if n > most {
		r.b, r.bad = nil, true
		return 0
	}
	return n
}

func (r *reader) counter() savedCounter {
	c := savedCounter{key: r.text(), owner: r.text(), life: r.number()}
	present := r.octet()
	if present >= 1<<windows {
		r.bad = true
	}
	for w := range windows {
		if present&(1<<w) != 0 {
			c.counts[w] = count{start: r.number(), n: r.number()}
			c.extra[w] = r.number()
			if c.counts[w].start%lengths[w] != 0 {
				r.bad = true
			}
		}
	}
	return c
}

// seal gives a slot: content with its header, which b has room for in front.
func seal(b []byte, serial uint64) []byte {
	copy(b, magic)
	binary.LittleEndian.PutUint64(b[8:], serial)
	binary.LittleEndian.PutUint32(b[16:], uint32(len(b)-headerSize))
	binary.LittleEndian.PutUint32(b[20:], checksum(b))
	return b
}

func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[8:20], castagnoli), castagnoli, b[headerSize:])
}

// unseal gives the content of a slot and its serial; errDamaged where it is not
// whole, nil content where nothing was ever written.
func unseal(b []byte) ([]byte, uint64, error) {
	if len(b) < headerSize || len(bytes.TrimLeft(b[:headerSize], "\x00")) == 0 {
		if len(bytes.TrimLeft(b, "\x00")) == 0 {
			return nil, 0, nil
		}
		return nil, 0, errDamaged
	}
	length := binary.LittleEndian.Uint32(b[16:])
	if string(b[:8]) != magic || uint64(length) > uint64(len(b)-headerSize) {
		return nil, 0, errDamaged
	}
	b = b[:headerSize+int(length)]
	if checksum(b) != binary.LittleEndian.Uint32(b[20:]) {
		return nil, 0, errDamaged
	}
	return b[headerSize:], binary.LittleEndian.Uint64(b[8:]), nil
}

// load gives the newest whole snapshot of the file, nil without one, and its
// serial. err says what was damaged, also where there is a snapshot all the same.
func load(f io.ReaderAt) (s *snapshot, serial uint64, err error) {
	for slot := range 2 {
		content, n, serr := readSlot(f, slot)
		var read *snapshot
		if serr == nil && content != nil && (s == nil || n > serial) {
			if read, serr = decode(content); serr == nil {
				s, serial = read, n
			}
		}
		if serr != nil {
			err = errors.Join(err, fmt.Errorf("slot %d: %w", slot, serr))
		}
	}
	return s, serial, err
}

func readSlot(f io.ReaderAt, slot int) ([]byte, uint64, error) {
	at := int64(slot) * slotSize
	b := make([]byte, headerSize)
	n, err := f.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	if n < headerSize {
		return unseal(b[:n])
	}
	length := int64(binary.LittleEndian.Uint32(b[16:]))
	if length > slotSize-headerSize {
		return nil, 0, errDamaged
	}
	whole, err := io.ReadAll(io.NewSectionReader(f, at, headerSize+length))
	if err != nil {
		return nil, 0, err
	}
	return unseal(whole)
}
