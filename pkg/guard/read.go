package guard

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func (c *connection) readTable(table string, s *snapshot) error {
	answer, err := c.ask(unix.NFT_MSG_GETTABLE, 0, name(table))
	if err != nil {
		return err
	}
	return each(answer, table, func(list []netlink.Attribute) error {
		s.exists = true
		for _, a := range list {
			switch a.Type {
			case unix.NFTA_TABLE_FLAGS:
				s.flags = uint32(number(a.Data))
			case unix.NFTA_TABLE_USE:
				s.uses = uint32(number(a.Data))
			}
		}
		return nil
	})
}

func (c *connection) readCounters(table string, s *snapshot) error {
	answer, err := c.ask(unix.NFT_MSG_GETOBJ, netlink.Dump, name(table))
	if err != nil {
		return err
	}
	return each(answer, table, func(list []netlink.Attribute) error {
		var name string
		var kind, packets uint64
		for _, a := range list {
			switch a.Type {
			case unix.NFTA_OBJ_NAME:
				name = text(a.Data)
			case unix.NFTA_OBJ_TYPE:
				kind = number(a.Data)
			case unix.NFTA_OBJ_DATA:
				var err error
				if packets, err = counted(a.Data); err != nil {
					return err
				}
			}
		}
		if kind == unix.NFT_OBJECT_COUNTER {
			s.counters[name] = packets
		}
		return nil
	})
}

// counted reads the packets of a counter.
func counted(b []byte) (uint64, error) {
	list, err := attributes(b)
	if err != nil {
		return 0, err
	}
	for _, a := range list {
		if a.Type == unix.NFTA_COUNTER_PACKETS {
			return number(a.Data), nil
		}
	}
	return 0, nil
}

// readSets reads the sets, and the elements of those for which want holds.
func (c *connection) readSets(table string, s *snapshot, want func(set string) bool) error {
	answer, err := c.ask(unix.NFT_MSG_GETSET, netlink.Dump, name(table))
	if err != nil {
		return err
	}
	err = each(answer, table, func(list []netlink.Attribute) error {
		name, shape, err := setFrom(list)
		s.sets[name] = kernelSet{shape: shape, elements: map[element]uint64{}}
		return err
	})
	if err != nil {
		return err
	}
	for set := range s.sets {
		if !want(set) {
			continue
		}
		if err := c.readElements(table, set, s); err != nil {
			return fmt.Errorf("set %s: %w", set, err)
		}
	}
	return nil
}

// setFrom reads the name and the shape of a set.
func setFrom(list []netlink.Attribute) (name string, shape setShape, err error) {
	for _, a := range list {
		switch a.Type {
		case unix.NFTA_SET_NAME:
			name = text(a.Data)
		case unix.NFTA_SET_FLAGS:
			shape.flags = uint32(number(a.Data))
		case unix.NFTA_SET_KEY_TYPE:
			shape.keyType = uint32(number(a.Data))
		case unix.NFTA_SET_KEY_LEN:
			shape.keyLength = uint32(number(a.Data))
		case unix.NFTA_SET_DESC:
			if shape.capacity, shape.concat, err = description(a.Data); err != nil {
				return name, shape, err
			}
		case nftaSetExpr:
			what, err := nameOf(a.Data)
			if err != nil {
				return name, shape, err
			}
			shape.counting = what == "counter"
			shape.other = shape.other || what != "counter"
		case unix.NFTA_SET_TIMEOUT, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_OBJ_TYPE, nftaSetExprs:
			shape.other = shape.other || number(a.Data) != 0
		}
	}
	return name, shape, nil
}

// description reads NFTA_SET_DESC: how many elements fit, and the lengths of
// concatenated fields.
func description(b []byte) (capacity uint32, concat string, err error) {
	list, err := attributes(b)
	if err != nil {
		return 0, "", err
	}
	for _, a := range list {
		switch a.Type {
		case unix.NFTA_SET_DESC_SIZE:
			capacity = uint32(number(a.Data))
		case nftaSetDescConcat:
			fields, err := attributes(a.Data)
			if err != nil {
				return 0, "", err
			}
			var lengths []string
			for _, field := range fields {
				inner, err := attributes(field.Data)
				if err != nil {
					return 0, "", err
				}
				for _, length := range inner {
					lengths = append(lengths, fmt.Sprint(number(length.Data)))
				}
			}
			concat = strings.Join(lengths, ".")
		}
	}
	return capacity, concat, nil
}

// nameOf reads the name of one expression.
func nameOf(b []byte) (string, error) {
	list, err := attributes(b)
	if err != nil {
		return "", err
	}
	for _, a := range list {
		if a.Type == unix.NFTA_EXPR_NAME {
			return text(a.Data), nil
		}
	}
	return "", nil
}

func (c *connection) readElements(table, set string, s *snapshot) error {
	answer, err := c.ask(unix.NFT_MSG_GETSETELEM, netlink.Dump,
		name(table), netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append([]byte(set), 0)})
	if err != nil {
		return err
	}
	return each(answer, table, func(list []netlink.Attribute) error {
		for _, a := range list {
			if a.Type != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			items, err := attributes(a.Data)
			if err != nil {
				return err
			}
			k := s.sets[set]
			for _, item := range items {
				e, packets, ours, err := elementFrom(item.Data)
				if err != nil {
					return err
				}
				if !ours {
					k.foreign++
					continue
				}
				k.elements[e] = packets
			}
			s.sets[set] = k
		}
		return nil
	})
}

// elementFrom reads one element. It is not ours when it has anything else than
// keys and a counter: a timeout would let it vanish, and the flag "catch all"
// would let everything match.
func elementFrom(b []byte) (e element, packets uint64, ours bool, err error) {
	list, err := attributes(b)
	if err != nil {
		return e, 0, false, err
	}
	ours = true
	for _, a := range list {
		switch a.Type {
		case unix.NFTA_SET_ELEM_KEY:
			e.key, err = value(a.Data)
		case nftaSetElemKeyEnd:
			e.end, err = value(a.Data)
		case unix.NFTA_SET_ELEM_FLAGS:
			ours = ours && number(a.Data) == 0
		case unix.NFTA_SET_ELEM_EXPR:
			packets, err = expressionCount(a.Data)
		case nftaSetElemExprs:
			// Several expressions: ours have one.
			ours = false
		case unix.NFTA_SET_ELEM_USERDATA, unix.NFTA_SET_ELEM_PAD:
		default:
			ours = false
		}
		if err != nil {
			return e, 0, false, err
		}
	}
	return e, packets, ours && e.key != "", nil
}

// value reads NFTA_DATA_VALUE.
func value(b []byte) (string, error) {
	list, err := attributes(b)
	if err != nil {
		return "", err
	}
	for _, a := range list {
		if a.Type == unix.NFTA_DATA_VALUE {
			return string(a.Data), nil
		}
	}
	return "", nil
}

// expressionCount reads the packets of an element's counter.
func expressionCount(b []byte) (uint64, error) {
	list, err := attributes(b)
	if err != nil {
		return 0, err
	}
	for _, a := range list {
		if a.Type == unix.NFTA_EXPR_DATA {
			return counted(a.Data)
		}
	}
	return 0, nil
}

func (c *connection) readChains(table string, s *snapshot) error {
	answer, err := c.ask(unix.NFT_MSG_GETCHAIN, netlink.Dump)
	if err != nil {
		return err
	}
	return each(answer, table, func(list []netlink.Attribute) error {
		var name string
		var k kernelChain
		for _, a := range list {
			switch a.Type {
			case unix.NFTA_CHAIN_NAME:
				name = text(a.Data)
			case unix.NFTA_CHAIN_POLICY:
				k.policy = uint32(number(a.Data))
			case unix.NFTA_CHAIN_TYPE:
				k.kind = text(a.Data)
			case unix.NFTA_CHAIN_HOOK:
				hook, err := attributes(a.Data)
				if err != nil {
					return err
				}
				k.base = true
				for _, h := range hook {
					switch h.Type {
					case unix.NFTA_HOOK_HOOKNUM:
						k.hook = nftables.ChainHook(number(h.Data))
					case unix.NFTA_HOOK_PRIORITY:
						k.priority = nftables.ChainPriority(number(h.Data))
					}
				}
			}
		}
		s.chains[name] = k
		return nil
	})
}

func (c *connection) readRules(table string, s *snapshot) error {
	answer, err := c.ask(unix.NFT_MSG_GETRULE, netlink.Dump, name(table))
	if err != nil {
		return err
	}
	return each(answer, table, func(list []netlink.Attribute) error {
		var chain string
		var body string
		for _, a := range list {
			var err error
			switch a.Type {
			case unix.NFTA_RULE_CHAIN:
				chain = text(a.Data)
			case unix.NFTA_RULE_EXPRESSIONS:
				body, err = describe(a.Data)
			}
			if err != nil {
				return fmt.Errorf("chain %s: %w", chain, err)
			}
		}
		k := s.chains[chain]
		k.rules = append(k.rules, body)
		s.chains[chain] = k
		return nil
	})
}
