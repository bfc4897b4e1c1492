package config

import "strconv"

// A Value is one value of a YAML file that is not a configuration of ours, read
// with the same bounds: aliases followed, merges made, top-level keys that begin
// with "x-" left out. The zero Value is what an absent key has.
type Value struct{ n *node }

// A ValueEntry is a key of a mapping with its value and line.
type ValueEntry struct {
	Key   string
	Line  int
	Value Value
}

// ReadYAML reads a file that holds one mapping. The error is of type Errors.
func ReadYAML(f File) (Value, error) {
	r := &report{order: make(map[string]int)}
	left := maxNodes
	if len(f.Data) > MaxFileSize {
		r.add(place{file: f.Name}, "too large: at most %d bytes", MaxFileSize)
		return Value{}, r.err()
	}
	n := parseFile(f, r, &left)
	return Value{n}, r.err()
}

// IsNull reports whether nothing stands there: an absent key or a null.
func (v Value) IsNull() bool { return v.n == nil || v.n.isNull() }

// Line is where the value begins, 0 for an absent one.
func (v Value) Line() int {
	if v.n == nil {
		return 0
	}
	return v.n.line
}

// Text gives a scalar as it is written; false for anything else.
func (v Value) Text() (string, bool) {
	if v.IsNull() || v.n.kind != scalar {
		return "", false
	}
	return v.n.value, true
}

// Bool gives a boolean; false for anything else.
func (v Value) Bool() (value, ok bool) {
	if v.IsNull() || v.n.tag != "!!bool" {
		return false, false
	}
	value, err := strconv.ParseBool(v.n.value)
	return value, err == nil
}

// Number gives a number; false for anything else.
func (v Value) Number() (float64, bool) {
	if v.IsNull() || v.n.tag != "!!int" && v.n.tag != "!!float" {
		return 0, false
	}
	f, err := strconv.ParseFloat(v.n.value, 64)
	return f, err == nil
}

// Get gives the value of a key, the zero Value where v is no mapping or lacks it.
func (v Value) Get(key string) Value {
	if v.n == nil {
		return Value{}
	}
	if e := v.n.get(key); e != nil {
		return Value{e.value}
	}
	return Value{}
}

// IsMapping reports whether v has keys.
func (v Value) IsMapping() bool { return v.n != nil && v.n.kind == mapping }

// Entries gives the keys of a mapping in order of the file.
func (v Value) Entries() []ValueEntry {
	if !v.IsMapping() {
		return nil
	}
	all := make([]ValueEntry, len(v.n.entries))
	for i, e := range v.n.entries {
		all[i] = ValueEntry{e.key, e.line, Value{e.value}}
	}
	return all
}

// Items gives the items of a list; of a scalar that scalar, since many formats
// let one item stand for a list.
func (v Value) Items() []Value {
	switch {
	case v.IsNull() || v.n.kind == mapping:
		return nil
	case v.n.kind == scalar:
		return []Value{v}
	}
	all := make([]Value, len(v.n.items))
	for i, item := range v.n.items {
		all[i] = Value{item}
	}
	return all
}

// Found describes the value for a message: a list, the number 5, "text".
func (v Value) Found() string {
	if v.n == nil {
		return "nothing"
	}
	return v.n.found()
}
