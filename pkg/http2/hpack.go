package http2

import "golang.org/x/net/http2/hpack"

// An encoder compresses header lists (RFC 7541). It writes what the encoder of
// x/net would write, but straight into the output, and finds repeated fields by
// comparing a byte of each entry instead of hashing names and values: the table
// has few entries, and those of the connection's last request are mostly the
// very same strings. The zero value, after begin, has an empty table.
type encoder struct {
	// entries is a ring of a power of two: the newest is at head-1, the oldest
	// at head-n. It grows to what the connection's fields need.
	entries []entry
	tags    []uint8
	head, n int
	size    int // of all entries as RFC 7541 section 4.1 counts it
	limit   int // of size
	// lowest is the least limit since the last block, update that the peer has
	// to be told (section 4.2).
	lowest int
	update bool
}

type entry struct{ name, value string }

// firstEntries is the size that the ring begins with. It never exceeds
// tableSize/32: an entry counts 32 bytes besides its text.
const firstEntries = 16

// entrySize is the size of a field as RFC 7541 section 4.1 counts it.
func entrySize(name, value string) int { return len(name) + len(value) + 32 }

func (e *encoder) begin() {
	e.limit, e.lowest = tableSize, tableSize
	e.entries, e.tags = make([]entry, firstEntries), make([]uint8, firstEntries)
}

// at gives the place of the i-th newest entry.
func (e *encoder) at(i int) int { return (e.head - i) & (len(e.tags) - 1) }

// setLimit takes the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *encoder) setLimit(limit int) {
	e.limit = min(limit, tableSize)
	e.lowest = min(e.lowest, e.limit)
	e.update = true
	e.evict()
}

func (e *encoder) evict() {
	for e.size > e.limit {
		old := &e.entries[e.at(e.n)]
		e.size -= entrySize(old.name, old.value)
		*old = entry{}
		e.n--
	}
}

// tag tells most entries apart.
func tag(name, value string) uint8 {
	t := uint8(len(name))*31 + uint8(len(value))
	if value != "" {
		t += value[len(value)-1] * 7
	}
	return t
}

// appendUpdate tells the peer of a new limit, at the begin of a block.
func (e *encoder) appendUpdate(b []byte) []byte {
	if !e.update {
		return b
	}
	e.update = false
	if e.lowest < e.limit {
		// The table was to be smaller meanwhile. Emptied, it was; and decoders
		// that take a second update for misplaced while something is in the
		// table, like that of x/net, take it.
		limit := e.limit
		e.limit = 0
		e.evict()
		e.limit = limit
		b = appendInteger(b, 0x20, 5, 0)
	}
	e.lowest = e.limit
	return appendInteger(b, 0x20, 5, e.limit)
}

// appendField appends a field, which for a sensitive one is a literal that
// nobody may index (RFC 7541 section 6.2.3).
func (e *encoder) appendField(b []byte, name, value string, sensitive bool) []byte {
	index, whole := staticIndex(name, value)
	if whole {
		return appendInteger(b, 0x80, 7, index)
	}
	if sensitive {
		return appendLiteral(b, 0x10, 4, index, name, value)
	}
	want := tag(name, value)
	for i := 1; i <= e.n; i++ {
		at := e.at(i)
		if e.tags[at] == want && e.entries[at].value == value && e.entries[at].name == name {
			return appendInteger(b, 0x80, 7, staticEntries+i)
		}
	}
	size := entrySize(name, value)
	if size > e.limit {
		return appendLiteral(b, 0, 4, index, name, value)
	}
	if index == 0 {
		index = e.nameIndex(name)
	}
	e.add(name, value, want, size)
	return appendLiteral(b, 0x40, 6, index, name, value)
}

// nameIndex finds an entry of that name, 0 without one.
func (e *encoder) nameIndex(name string) int {
	for i := 1; i <= e.n; i++ {
		if e.entries[e.at(i)].name == name {
			return staticEntries + i
		}
	}
	return 0
}

func (e *encoder) add(name, value string, tag uint8, size int) {
	e.size += size
	e.evict()
	if e.n == len(e.entries) {
		e.grow()
	}
	e.entries[e.head], e.tags[e.head] = entry{name, value}, tag
	e.head = e.at(-1)
	e.n++
}

// grow doubles the full ring.
func (e *encoder) grow() {
	entries, tags := make([]entry, 2*e.n), make([]uint8, 2*e.n)
	for i := range e.n {
		at := e.at(e.n - i)
		entries[i], tags[i] = e.entries[at], e.tags[at]
	}
	e.entries, e.tags, e.head = entries, tags, e.n
}

// appendInteger appends an integer with a prefix of that many bits (RFC 7541
// section 5.1).
func appendInteger(b []byte, first byte, bits, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(b, first|byte(n))
	}
	b = append(b, first|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// appendLiteral appends a field that is not in a table, its name by index
// unless that is 0.
func appendLiteral(b []byte, first byte, bits, index int, name, value string) []byte {
	b = appendInteger(b, first, bits, index)
	if index == 0 {
		b = appendText(b, name)
	}
	return appendText(b, value)
}

// appendText appends a string, by Huffman's code where that is shorter.
func appendText(b []byte, s string) []byte {
	if n := hpack.HuffmanEncodeLength(s); n < uint64(len(s)) {
		return hpack.AppendHuffmanString(appendInteger(b, 0x80, 7, int(n)), s)
	}
	return append(appendInteger(b, 0, 7, len(s)), s...)
}

// staticEntries is the size of the static table (RFC 7541 appendix A).
const staticEntries = 61

// staticIndex finds a field in the static table: whole, or else an entry of
// that name, 0 without one.
func staticIndex(name, value string) (index int, whole bool) {
	switch name {
	case ":authority":
		return 1, value == ""
	case ":method":
		if value == "POST" {
			return 3, true
		}
		return 2, value == "GET"
	case ":path":
		if value == "/index.html" {
			return 5, true
		}
		return 4, value == "/"
	case ":scheme":
		if value == "https" {
			return 7, true
		}
		return 6, value == "http"
	case ":status":
		return staticStatus(value)
	case "accept-encoding":
		return 16, value == "gzip, deflate"
	}
	return staticName(name), value == "" && staticName(name) != 0
}

func staticStatus(value string) (index int, whole bool) {
	switch value {
	case "200":
		return 8, true
	case "204":
		return 9, true
	case "206":
		return 10, true
	case "304":
		return 11, true
	case "400":
		return 12, true
	case "404":
		return 13, true
	case "500":
		return 14, true
	default:
		return 8, false
	}
}

// staticName finds the names whose entries have no value.
func staticName(name string) int {
	switch name {
	case "accept-charset":
		return 15
	case "accept-language":
		return 17
	case "accept-ranges":
		return 18
	case "accept":
		return 19
	case "access-control-allow-origin":
		return 20
	case "age":
		return 21
	case "allow":
		return 22
	case "authorization":
		return 23
	case "cache-control":
		return 24
	case "content-disposition":
		return 25
	case "content-encoding":
		return 26
	case "content-language":
		return 27
	case "content-length":
		return 28
	case "content-location":
		return 29
	case "content-range":
		return 30
	case "content-type":
		return 31
	case "cookie":
		return 32
	case "date":
		return 33
	case "etag":
		return 34
	case "expect":
		return 35
	case "expires":
		return 36
	case "from":
		return 37
	case "host":
		return 38
	case "if-match":
		return 39
	case "if-modified-since":
		return 40
	case "if-none-match":
		return 41
	case "if-range":
		return 42
	case "if-unmodified-since":
		return 43
	case "last-modified":
		return 44
	case "link":
		return 45
	case "location":
		return 46
	case "max-forwards":
		return 47
	case "proxy-authenticate":
		return 48
	case "proxy-authorization":
		return 49
	case "range":
		return 50
	case "referer":
		return 51
	case "refresh":
		return 52
	case "retry-after":
		return 53
	case "server":
		return 54
	case "set-cookie":
		return 55
	case "strict-transport-security":
		return 56
	case "transfer-encoding":
		return 57
	case "user-agent":
		return 58
	case "vary":
		return 59
	case "via":
		return 60
	case "www-authenticate":
		return 61
	default:
		return 0
	}
}
