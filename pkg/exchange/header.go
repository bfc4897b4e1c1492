package exchange

import "iter"

// A Field is one field line: the name in the case in which it came, the value
// without surrounding whitespace.
type Field struct {
	Name, Value string
	// ID is the name's meaning for codecs and stages.
	ID NameID
	// Checked says that a codec's parser has judged name and value; a writer
	// checks every other field before it lets it onto the wire.
	Checked bool
	// NeverIndexed says that its sender let no table of HPACK hold it, so that
	// nobody does who passes it on (RFC 7541 section 7.1.3).
	NeverIndexed bool
}

// A Header is a list of fields that keeps their order and case. Repeated
// fields stay apart. It is reused between messages and allocates only to grow.
type Header struct {
	fields []Field
}

// maxKeptFields bounds the list that an emptied Header keeps for the next
// message, so that one message with many fields does not hold memory for good.
const maxKeptFields = 64

// Reset empties the list.
func (h *Header) Reset() {
	if cap(h.fields) > maxKeptFields {
		h.fields = nil
		return
	}
	clear(h.fields)
	h.fields = h.fields[:0]
}

// Len gives the number of fields.
func (h *Header) Len() int { return len(h.fields) }

// At gives the field at position i, which must be below Len. The pointer is
// good until the list is changed.
func (h *Header) At(i int) *Field { return &h.fields[i] }

// Append adds a field at the end; a codec's parser uses it for what it has
// checked.
func (h *Header) Append(f Field) { h.fields = append(h.fields, f) }

// Add adds a field at the end. A name or value that RFC 9110 section 5 does
// not allow makes the writing of the message fail.
func (h *Header) Add(name, value string) {
	h.fields = append(h.fields, Field{Name: name, Value: value, ID: LookupName(name)})
}

// Set replaces the first field of that name, in its place, and removes the
// others; without one it adds it.
func (h *Header) Set(name, value string) {
	for i := range h.fields {
		if EqualFold(h.fields[i].Name, name) {
			h.fields[i] = Field{Name: h.fields[i].Name, Value: value, ID: h.fields[i].ID}
			h.removeFrom(i+1, name)
			return
		}
	}
	h.Add(name, value)
}

// Del removes every field of that name.
func (h *Header) Del(name string) { h.removeFrom(0, name) }

func (h *Header) removeFrom(start int, name string) {
	h.removeIf(start, func(f *Field) bool { return EqualFold(f.Name, name) })
}

// DeleteFunc removes each field for which drop answers true; the order of the
// rest stays.
func (h *Header) DeleteFunc(drop func(*Field) bool) { h.removeIf(0, drop) }

func (h *Header) removeIf(start int, drop func(*Field) bool) {
	kept := start
	for i := start; i < len(h.fields); i++ {
		if drop(&h.fields[i]) {
			continue
		}
		if kept != i {
			h.fields[kept] = h.fields[i]
		}
		kept++
	}
	clear(h.fields[kept:])
	h.fields = h.fields[:kept]
}

// Get gives the first value of that name, "" without one. Where a field may be
// repeated, a judge must look at Values: a sender chooses which one comes
// first.
func (h *Header) Get(name string) string {
	for i := range h.fields {
		if EqualFold(h.fields[i].Name, name) {
			return h.fields[i].Value
		}
	}
	return ""
}

// Find gives the first field with that id, nil without one.
func (h *Header) Find(id NameID) *Field {
	for i := range h.fields {
		if h.fields[i].ID == id {
			return &h.fields[i]
		}
	}
	return nil
}

// Has reports whether a field of that name is there.
func (h *Header) Has(name string) bool {
	for range h.Values(name) {
		return true
	}
	return false
}

// Values walks the values of that name in order.
func (h *Header) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range h.fields {
			if EqualFold(h.fields[i].Name, name) && !yield(h.fields[i].Value) {
				return
			}
		}
	}
}

// All walks names and values in order.
func (h *Header) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for i := range h.fields {
			if !yield(h.fields[i].Name, h.fields[i].Value) {
				return
			}
		}
	}
}
