package guard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// describe gives the expressions of a rule (the content of
// NFTA_RULE_EXPRESSIONS) in one form for what we send and what the kernel lists,
// so that the two can be compared as strings. It reads the attributes themselves
// and not a library's types: an expression that the library does not know must
// not vanish from the comparison.
//
// Attributes whose value is zero are left out: the kernel lists defaults that
// nobody sent. So is the id of a set, which only means something in the batch
// that made it.
func describe(expressions []byte) (string, error) {
	var b strings.Builder
	list, err := attributes(expressions)
	if err != nil {
		return "", err
	}
	for _, item := range list {
		if err := describeExpression(&b, item.Data); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

// describeBody does the same for expressions that were not sent yet.
func describeBody(body []expr.Any) (string, error) {
	var b strings.Builder
	for _, e := range body {
		item, err := expr.Marshal(unix.NFPROTO_INET, e)
		if err != nil {
			return "", err
		}
		if item, err = directed(item); err != nil {
			return "", err
		}
		if err := describeExpression(&b, item); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

func describeExpression(b *strings.Builder, item []byte) error {
	list, err := attributes(item)
	if err != nil {
		return err
	}
	var name string
	var data []byte
	for _, a := range list {
		switch a.Type {
		case unix.NFTA_EXPR_NAME:
			name = text(a.Data)
		case unix.NFTA_EXPR_DATA:
			data = a.Data
		}
	}
	fmt.Fprintf(b, "[%s", name)
	if err := describeData(b, shapeOf(name), data); err != nil {
		return fmt.Errorf("expression %s: %w", name, err)
	}
	b.WriteByte(']')
	return nil
}

// A shape says how to read the attributes of one kind of expression.
type shape struct {
	nested map[uint16]shape // holds attributes itself
	text   []uint16         // a name, with or without its final NUL
	skip   []uint16
	keep   []uint16 // said also where it is zero
}

// shapeOf gives the shape of the expressions that our rules use; of others every
// attribute is compared as it is. linux/netfilter/nf_tables.h. The kernel's
// nesting flag cannot be asked: nf_tables leaves it out in many places.
func shapeOf(name string) shape {
	// NFTA_DATA_VALUE, or NFTA_DATA_VERDICT with code and chain.
	data := shape{nested: map[uint16]shape{unix.NFTA_DATA_VERDICT: {text: []uint16{unix.NFTA_VERDICT_CHAIN}}}}
	switch name {
	case "cmp":
		return shape{nested: map[uint16]shape{unix.NFTA_CMP_DATA: data}}
	case "immediate":
		return shape{nested: map[uint16]shape{unix.NFTA_IMMEDIATE_DATA: data}}
	case "bitwise":
		return shape{nested: map[uint16]shape{unix.NFTA_BITWISE_MASK: data, unix.NFTA_BITWISE_XOR: data}}
	case "ct":
		return shape{keep: []uint16{unix.NFTA_CT_DIRECTION}}
	case "lookup":
		return shape{text: []uint16{unix.NFTA_LOOKUP_SET}, skip: []uint16{unix.NFTA_LOOKUP_SET_ID}}
	case "objref":
		return shape{text: []uint16{unix.NFTA_OBJREF_IMM_NAME}}
	default:
		return shape{}
	}
}

func describeData(b *strings.Builder, s shape, data []byte) error {
	list, err := attributes(data)
	if err != nil {
		return err
	}
	slices.SortStableFunc(list, func(x, y netlink.Attribute) int { return int(x.Type) - int(y.Type) })
	for _, a := range list {
		inner, nested := s.nested[a.Type]
		switch {
		case slices.Contains(s.skip, a.Type):
		case nested:
			fmt.Fprintf(b, " %d{", a.Type)
			if err := describeData(b, inner, a.Data); err != nil {
				return err
			}
			b.WriteByte('}')
		case slices.Contains(s.text, a.Type):
			fmt.Fprintf(b, " %d=%q", a.Type, text(a.Data))
		case len(bytes.Trim(a.Data, "\x00")) != 0 || slices.Contains(s.keep, a.Type):
			fmt.Fprintf(b, " %d=%x", a.Type, a.Data)
		}
	}
	return nil
}

// attributes splits netlink attributes (netlink(7)) and clears the flag bits of
// their types. The data is not copied: it must not outlive the message.
func attributes(b []byte) ([]netlink.Attribute, error) {
	const header, align = 4, 4
	list := make([]netlink.Attribute, 0, 4) // most have no more
	for len(b) >= header {
		length := int(binary.NativeEndian.Uint16(b))
		if length < header || length > len(b) {
			return nil, fmt.Errorf("netlink attribute of %d bytes in %d", length, len(b))
		}
		kind := binary.NativeEndian.Uint16(b[2:]) & nlaTypeMask
		list = append(list, netlink.Attribute{Type: kind, Data: b[header:length]})
		b = b[min((length+align-1)&^(align-1), len(b)):]
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("netlink attributes: %d bytes left over", len(b))
	}
	return list, nil
}

// text is a string without its final NUL.
func text(b []byte) string { return string(bytes.TrimSuffix(b, []byte{0})) }
