package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"sallyport/pkg/policy/condition"
	"sallyport/pkg/policy/pattern"
)

// A decoder reads nodes into a Config and reports every mistake on the way. Its
// methods give the zero value for what they reported.
type decoder struct {
	*report
	// left is how many values of lists may still be read: a list that stands
	// once in the file may be used in every rule.
	left int
	// fields, if set, records the keys of each mapping by its path; a test
	// compares them with the schema.
	fields map[string][]string
	// patterns are those of content filters with what is wrong with them.
	patterns map[string]error
	// conditions compiles the when of rules.
	conditions condition.Compiler
}

// A field is a key of a mapping and what reads its value.
type field struct {
	key  string
	read func(n *node)
}

// object reads a mapping. path stands before the keys in messages and names the
// mapping in the table of keys that are not built yet.
func (d *decoder) object(n *node, path string, fields ...field) {
	if d.fields != nil {
		for _, f := range fields {
			d.fields[path] = append(d.fields[path], f.key)
		}
	}
	if n.kind != mapping {
		d.add(n.place, "%swant a mapping, found %s", prefix(path), n.found())
		return
	}
	for i := range n.entries {
		e := &n.entries[i]
		j := slices.IndexFunc(fields, func(f field) bool { return f.key == e.key })
		switch {
		case j >= 0:
			fields[j].read(e.value)
		case slices.Contains(unbuilt[path], e.key):
			d.notBuilt(e.place, joined(visible(path), e.key))
		default:
			names := slices.Clone(unbuilt[path])
			for _, f := range fields {
				names = append(names, f.key)
			}
			d.add(e.place, "unknown field %q%s", e.key, instead(e.key, names))
		}
	}
}

// visible is the path that messages show: that of a rule or a workload begins
// inside it.
func visible(path string) string {
	for _, part := range []string{"rules[]", "workloads{}", "upstreams{}"} {
		if rest, ok := strings.CutPrefix(path, part); ok {
			return strings.TrimPrefix(rest, ".")
		}
	}
	return path
}

func prefix(path string) string {
	if path = visible(path); path == "" {
		return ""
	}
	return path + ": "
}

// text reads a string. What YAML reads as a number or a boolean must be quoted:
// 1.20 is not "1.2".
func (d *decoder) text(n *node, path string) (string, bool) {
	if n.kind != scalar || n.tag == "!!null" {
		d.add(n.place, "%swant a string, found %s", prefix(path), n.found())
		return "", false
	}
	if n.tag != "!!str" {
		d.add(n.place, "%swant a string, found %s (write %q)", prefix(path), n.found(), n.value)
		return "", false
	}
	if i := strings.IndexFunc(n.value, func(c rune) bool { return c < ' ' || c == 0x7f }); i >= 0 {
		d.add(n.place, "%shas a control character", prefix(path))
		return "", false
	}
	return n.value, true
}

// word reads one of a closed set.
func word[T ~string](d *decoder, n *node, path string, into *T, allowed ...T) {
	if (n.kind != scalar || n.tag != "!!str") && !slices.Contains(allowed, T(n.value)) {
		d.add(n.place, "%swant %s, found %s", prefix(path), quoted(allowed), n.found())
		return
	}
	s, ok := d.text(n, path)
	if !ok {
		return
	}
	if !slices.Contains(allowed, T(s)) {
		names := make([]string, len(allowed))
		for i, a := range allowed {
			names[i] = string(a)
		}
		d.add(n.place, "%swant %s, found %q%s", prefix(path), quoted(allowed), s, suggest(s, names))
		return
	}
	*into = T(s)
}

// boolean reads true or false, and nothing that only looks like it.
func (d *decoder) boolean(n *node, path string, into *bool) {
	switch {
	case n.kind == scalar && n.tag == "!!bool" && strings.EqualFold(n.value, "true"):
		*into = true
	case n.kind == scalar && n.tag == "!!bool":
		*into = false
	default:
		d.add(n.place, "%swant true or false, found %s", prefix(path), n.found())
	}
}

// integer reads a decimal number.
func (d *decoder) integer(n *node, path string, low, high int64) (int64, bool) {
	if n.kind != scalar || n.tag != "!!int" {
		d.add(n.place, "%swant a number, found %s", prefix(path), n.found())
		return 0, false
	}
	// 010 is eight for YAML 1.1 and ten for everybody else.
	v, err := strconv.ParseInt(n.value, 10, 64)
	if err != nil || v < low || v > high || len(n.value) > 1 && n.value[0] == '0' || n.value[0] == '+' {
		want := fmt.Sprintf("a number from %d to %d", low, high)
		if low == high {
			want = strconv.FormatInt(low, 10)
		}
		d.add(n.place, "%swant %s, found %s", prefix(path), want, n.value)
		return 0, false
	}
	return v, true
}

func (d *decoder) port(n *node, path string, low int64, into *uint16) {
	if v, ok := d.integer(n, path, low, math.MaxUint16); ok {
		*into = uint16(v)
	}
}

// duration reads what time.ParseDuration reads, from low to MaxTimeout.
func (d *decoder) duration(n *node, path string, low time.Duration) (time.Duration, bool) {
	if n.kind != scalar || n.tag == "!!null" || n.tag == "!!bool" {
		d.add(n.place, "%swant a duration such as 30s, found %s", prefix(path), n.found())
		return 0, false
	}
	v, err := time.ParseDuration(n.value)
	switch {
	case err != nil:
		d.add(n.place, "%sbad duration %q: want a number with a unit, such as 30s, 10m or 1h30m", prefix(path), n.value)
	case v < low || v > MaxTimeout:
		d.add(n.place, "%sbad duration %q: want %v to %v", prefix(path), n.value, low, MaxTimeout)
	default:
		return v, true
	}
	return 0, false
}

// size reads a number of bytes with a unit.
func (d *decoder) size(n *node, path string, low, high Size, into *Size) {
	if n.kind != scalar || n.tag == "!!null" || n.tag == "!!bool" {
		d.add(n.place, "%swant a size such as 10MB, found %s", prefix(path), n.found())
		return
	}
	v, ok := parseSize(n.value)
	switch {
	case !ok:
		d.add(n.place, "%sbad size %q: want a whole number with a unit: B, KB, MB, GB (10^9) or KiB, MiB, GiB (2^30)", prefix(path), n.value)
	case v < low || v > high:
		d.add(n.place, "%sbad size %q: want %v to %v", prefix(path), n.value, low, high)
	default:
		*into = v
	}
}

// items reads a list, or a single value as a list of one.
func (d *decoder) items(n *node, path string, each func(n *node)) {
	switch {
	case n.kind != list:
		each(n)
	case len(n.items) > MaxListItems:
		d.add(n.place, "%smore than %d items", prefix(path), MaxListItems)
	default:
		for _, item := range n.items {
			if d.left--; d.left < 0 {
				if d.left == -1 {
					d.add(n.place, "%smore than %d values after aliases are followed", prefix(path), maxNodes)
				}
				return
			}
			each(item)
		}
	}
}

// some is items for a list that would mean "nothing" or "everything" if it were
// empty: which of the two, no reader should have to guess.
func (d *decoder) some(n *node, path string, each func(n *node)) {
	if n.kind == list && len(n.items) == 0 {
		d.add(n.place, "%sempty list: leave the key out where anything will do", prefix(path))
		return
	}
	d.items(n, path, each)
}

// globs reads a glob or a list of them.
func (d *decoder) globs(n *node, path string) (all Globs) {
	d.some(n, path, func(n *node) {
		if s, ok := d.text(n, path); ok {
			if g, err := pattern.ParseGlob(s); err != nil {
				d.add(n.place, "%sthe glob %q %v", prefix(path), s, err)
			} else {
				all = append(all, g)
			}
		}
	})
	return all
}

// file reads an absolute path.
func (d *decoder) file(n *node, path string, into *string) {
	s, ok := d.text(n, path)
	switch {
	case !ok:
	case s == "" || s[0] != '/':
		d.add(n.place, "%swant an absolute path, found %q", prefix(path), s)
	case strings.Contains(s+"/", "/../"):
		d.add(n.place, "%swant a path without \"..\", found %q", prefix(path), s)
	default:
		*into = s
	}
}

// identifier reads a short name of letters, digits and the bytes of extra.
func (d *decoder) identifier(n *node, path string, longest int, extra string, into *string) {
	s, ok := d.text(n, path)
	if !ok {
		return
	}
	if err := checkIdentifier(s, longest, extra); err != nil {
		d.add(n.place, "%s%q %v", prefix(path), s, err)
		return
	}
	*into = s
}

func checkIdentifier(s string, longest int, extra string) error {
	if s == "" {
		return fmt.Errorf("is empty")
	}
	if len(s) > longest {
		return fmt.Errorf("is longer than %d bytes", longest)
	}
	for i := range len(s) {
		c := s[i]
		alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alphanumeric && (strings.IndexByte(extra, c) < 0 || i == 0 && c != '_') {
			return fmt.Errorf("has %q: want letters, digits and any of %s, first a letter or digit", s[i:i+1], extra)
		}
	}
	return nil
}
