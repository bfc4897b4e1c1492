package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// What golang.org/x/sys/unix lacks of linux/netfilter/nf_tables.h.
const (
	nftaSetDescConcat = 2    // NFTA_SET_DESC_CONCAT
	nftaSetElemKeyEnd = 10   // NFTA_SET_ELEM_KEY_END
	nftaSetElemExprs  = 0x11 // NFTA_SET_ELEM_EXPRESSIONS
	nftaSetExpr       = 0x11 // NFTA_SET_EXPR
	nftaSetExprs      = 0x12 // NFTA_SET_EXPRESSIONS
	nftSetConcat      = 0x80 // NFT_SET_CONCAT
	nftaAny           = 1    // NFTA_{TABLE,CHAIN,RULE,SET,OBJ,…}_TABLE: the table's name
	nlaTypeMask       = 0x3fff
)

// answerTimeout bounds the wait for an answer of the kernel, which comes within
// the system call or not at all.
const answerTimeout = 10 * time.Second

// A connection asks nf_tables in one network namespace.
type connection struct{ nl *netlink.Conn }

// dial connects to the namespace ns (nil: the process's own).
func dial(ns *os.File) (*connection, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: descriptor(ns)})
	if err != nil {
		return nil, fmt.Errorf("connect to nf_tables: %w", err)
	}
	return &connection{nl}, nil
}

// descriptor is what mdlayher/netlink takes: 0 stands for the own namespace.
func descriptor(ns *os.File) int {
	if ns == nil {
		return 0
	}
	return int(ns.Fd())
}

// ask sends one request about our family and gives the answers' attributes.
func (c *connection) ask(request uint16, flags netlink.HeaderFlags, attrs ...netlink.Attribute) ([]netlink.Message, error) {
	body, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	if err := c.nl.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, err
	}
	return c.nl.Execute(netlink.Message{
		Header: netlink.Header{Type: header(request), Flags: netlink.Request | flags},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, body...),
	})
}

// header is the netlink message type of an nf_tables message.
func header(message uint16) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message)
}

// payload splits a message of nf_tables behind its nfgenmsg.
func payload(m netlink.Message) ([]netlink.Attribute, error) {
	const nfgenmsg = 4
	if len(m.Data) < nfgenmsg {
		return nil, errors.New("nf_tables: short message")
	}
	return attributes(m.Data[nfgenmsg:])
}

// generation gives the number that nf_tables counts up with each transaction in
// this namespace, whoever makes it.
func (c *connection) generation() (uint32, error) {
	answer, err := c.ask(unix.NFT_MSG_GETGEN, 0)
	if err != nil {
		return 0, fmt.Errorf("nf_tables generation: %w", err)
	}
	for _, m := range answer {
		list, err := payload(m)
		if err != nil {
			return 0, err
		}
		for _, a := range list {
			if a.Type == unix.NFTA_GEN_ID && len(a.Data) == 4 {
				return binary.BigEndian.Uint32(a.Data), nil
			}
		}
	}
	return 0, errors.New("nf_tables generation: the kernel gave none")
}

// A snapshot is what the kernel has under the name of our table.
type snapshot struct {
	generation uint32
	exists     bool
	flags      uint32 // NFT_TABLE_F_DORMANT and others
	uses       uint32 // chains, sets, counters and whatever else is in the table
	counters   map[string]uint64
	sets       map[string]kernelSet
	chains     map[string]kernelChain
}

// A kernelSet is a set as the kernel has it.
type kernelSet struct {
	shape    setShape
	elements map[element]uint64 // packets counted
	foreign  int                // elements with anything that ours do not have
}

// A setShape is what of a set cannot change after it was made.
type setShape struct {
	flags, keyType, keyLength, capacity uint32
	concat                              string // lengths of the fields
	counting                            bool
	other                               bool // has what none of ours has: a timeout, a map's data
}

// A kernelChain is a chain as the kernel has it.
type kernelChain struct {
	base     bool
	hook     nftables.ChainHook
	priority nftables.ChainPriority
	policy   uint32 // NF_DROP or NF_ACCEPT, as it stands in a verdict
	kind     string
	rules    []string // in the form of describe
}

// snapshot reads the table. Reading takes several requests; what changed
// meanwhile is read again, until one generation of the ruleset was read whole.
func (c *connection) snapshot(table string) (snapshot, error) {
	const attempts = 20
	for range attempts {
		before, err := c.generation()
		if err != nil {
			return snapshot{}, err
		}
		s, readErr := c.read(table)
		after, err := c.generation()
		if err != nil {
			return snapshot{}, err
		}
		if before != after {
			continue
		}
		s.generation = before
		return s, readErr
	}
	return snapshot{}, fmt.Errorf("read table %s: the ruleset changed %d times while it was read", table, attempts)
}

// read reads the parts of the table, one after the other.
func (c *connection) read(table string) (snapshot, error) {
	s := snapshot{counters: map[string]uint64{}, sets: map[string]kernelSet{}, chains: map[string]kernelChain{}}
	if err := c.readTable(table, &s); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return s, nil
		}
		return s, fmt.Errorf("read table %s: %w", table, err)
	}
	sets := func(table string, s *snapshot) error { return c.readSets(table, s, everySet) }
	for _, part := range []func(string, *snapshot) error{c.readCounters, sets, c.readChains, c.readRules} {
		if err := part(table, &s); err != nil {
			return s, fmt.Errorf("read table %s: %w", table, err)
		}
	}
	return s, nil
}

// counters reads only what counts. The parts may be of different moments: each
// number only grows.
func (c *connection) counters(table string) (snapshot, error) {
	s := snapshot{exists: true, counters: map[string]uint64{}, sets: map[string]kernelSet{}}
	err := c.readCounters(table, &s)
	if err == nil {
		err = c.readSets(table, &s, counting)
	}
	// While the table is missing nothing new is counted.
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return s, err
}

// counting names the sets whose elements count, for readSets.
func counting(set string) bool {
	return strings.HasPrefix(set, refusedName) || strings.HasPrefix(set, droppedName)
}

// everySet is for readSets.
func everySet(string) bool { return true }

// name is the attribute that names our table in every request.
func name(table string) netlink.Attribute {
	return netlink.Attribute{Type: nftaAny, Data: append([]byte(table), 0)}
}

// each calls fn with the attributes of each answer that is about the table.
// Dumps of chains have no filter by table.
func each(answer []netlink.Message, table string, fn func([]netlink.Attribute) error) error {
	for _, m := range answer {
		list, err := payload(m)
		if err != nil {
			return err
		}
		mine := false
		for _, a := range list {
			mine = mine || a.Type == nftaAny && text(a.Data) == table
		}
		if !mine {
			continue
		}
		if err := fn(list); err != nil {
			return err
		}
	}
	return nil
}

// number reads a big-endian number of any attribute length up to 8 bytes.
func number(b []byte) uint64 {
	var v uint64
	for _, octet := range b {
		v = v<<8 | uint64(octet)
	}
	return v
}
