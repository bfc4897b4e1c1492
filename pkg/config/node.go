package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"
)

// A place is where in the sources something stands.
type place struct {
	file         string
	line, column int
}

func (p place) String() string { return fmt.Sprintf("%s:%d:%d", p.file, p.line, p.column) }

type kind uint8

const (
	scalar kind = iota
	list
	mapping
)

// A node is one YAML value with its place, aliases followed and merges made.
type node struct {
	place
	kind kind
	// tag is the short tag of a scalar: !!str, !!int, !!float, !!bool, !!null.
	tag, value string
	items      []*node
	entries    []entry
}

// An entry is a key of a mapping with its value.
type entry struct {
	place
	key   string
	value *node
}

// get gives the entry of that key, or nil.
func (n *node) get(key string) *entry {
	for i := range n.entries {
		if n.entries[i].key == key {
			return &n.entries[i]
		}
	}
	return nil
}

// isNull reports whether nothing stands where the value should.
func (n *node) isNull() bool { return n.kind == scalar && n.tag == "!!null" }

// found describes a value that was not wanted.
func (n *node) found() string {
	switch {
	case n.kind == list:
		return "a list"
	case n.kind == mapping:
		return "a mapping"
	case n.tag == "!!null":
		return "nothing"
	case n.tag == "!!int" || n.tag == "!!float":
		return "the number " + n.value
	case n.tag == "!!bool":
		return "the boolean " + n.value
	default:
		return fmt.Sprintf("%q", n.value)
	}
}

// A builder turns the YAML of one file into nodes.
type builder struct {
	file   string
	report *report
	// left is how many nodes may still be made, for all files.
	left *int
	// built are the nodes of anchors, made once however often they are used; nil
	// for one that is being made, since it must not refer to itself.
	built map[*yaml.Node]*node
}

func (b *builder) place(n *yaml.Node) place { return place{b.file, n.Line, n.Column} }

// spend counts a node; false when there are too many.
func (b *builder) spend(n *yaml.Node) bool {
	if *b.left--; *b.left >= 0 {
		return true
	}
	if *b.left == -1 {
		b.report.add(b.place(n), "more than %d values", maxNodes)
	}
	return false
}

// build follows aliases, makes merges and refuses what the format has no use
// for. It gives nil for what it reported.
func (b *builder) build(n *yaml.Node, depth int) *node {
	if n.Kind == yaml.AliasNode {
		made, known := b.built[n.Alias]
		if known && made == nil {
			b.report.add(b.place(n), "anchor %q refers to itself", n.Value)
		}
		return made
	}
	if n.Anchor == "" {
		return b.make(n, depth)
	}
	b.built[n] = nil
	made := b.make(n, depth)
	if made == nil {
		// Reported where it stands; whoever refers to it need not say so again.
		made = &node{place: b.place(n), tag: "!!null"}
	}
	b.built[n] = made
	return made
}

func (b *builder) make(n *yaml.Node, depth int) *node {
	if !b.spend(n) {
		return nil
	}
	if depth > maxDepth {
		b.report.add(b.place(n), "nested deeper than %d levels", maxDepth)
		return nil
	}
	out := &node{place: b.place(n)}
	switch n.Kind {
	case yaml.ScalarNode:
		out.tag, out.value = n.ShortTag(), n.Value
		switch out.tag {
		case "!!str", "!!int", "!!float", "!!bool", "!!null":
		case "!!timestamp", "!!merge":
			out.tag = "!!str"
		default:
			b.report.add(out.place, "unknown tag %s", out.tag)
			return nil
		}
		if len(out.value) > MaxString {
			b.report.add(out.place, "longer than %d bytes", MaxString)
			return nil
		}
	case yaml.SequenceNode:
		out.kind = list
		out.items = make([]*node, 0, len(n.Content))
		for _, item := range n.Content {
			if built := b.build(item, depth+1); built != nil {
				out.items = append(out.items, built)
			}
		}
	case yaml.MappingNode:
		out.kind = mapping
		b.mapping(out, n, depth)
	default:
		b.report.add(out.place, "unknown kind of YAML value")
		return nil
	}
	return out
}

func (b *builder) mapping(out *node, n *yaml.Node, depth int) {
	seen := make(map[string]place, len(n.Content)/2)
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		for key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode || len(key.Value) > MaxString {
			b.report.add(b.place(key), "a key must be a short string")
			continue
		}
		if key.ShortTag() == "!!merge" {
			merges = append(merges, value)
			continue
		}
		at := b.place(key)
		if first, twice := seen[key.Value]; twice {
			b.report.add(at, "duplicate key %q (first at %s)", key.Value, first)
			continue
		}
		seen[key.Value] = at
		if built := b.build(value, depth+1); built != nil {
			out.entries = append(out.entries, entry{at, key.Value, built})
		}
	}
	for _, m := range merges {
		b.merge(out, m, depth, seen)
	}
}

// merge adds the keys of "<<" that the mapping does not have itself; of several
// mappings the first wins (yaml.org/type/merge).
func (b *builder) merge(out *node, value *yaml.Node, depth int, seen map[string]place) {
	from := b.build(value, depth+1)
	if from == nil {
		return
	}
	sources := []*node{from}
	if from.kind == list {
		sources = from.items
	}
	for _, source := range sources {
		if source.kind != mapping {
			b.report.add(source.place, `"<<" merges mappings, found %s`, source.found())
			continue
		}
		for _, e := range source.entries {
			if !b.spend(value) {
				return
			}
			if _, has := seen[e.key]; !has {
				seen[e.key] = e.place
				out.entries = append(out.entries, e)
			}
		}
	}
}

// isExtension reports whether a top-level key is for the file's author alone.
func isExtension(key string) bool { return strings.HasPrefix(key, "x-") }
