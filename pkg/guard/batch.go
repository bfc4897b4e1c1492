package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// What golang.org/x/sys/unix lacks of linux/netfilter/nf_tables.h and
// linux/netfilter/nf_nat.h.
const (
	tableOwner     = 0x2 // NFT_TABLE_F_OWNER, Linux 5.12
	nftaCtSreg     = 4   // NFTA_CT_SREG
	natRangePort   = 0x2 // NF_NAT_RANGE_PROTO_SPECIFIED
	ctStatusDNAT   = 0x20
	nftaRuleExprs  = 4 // NFTA_RULE_EXPRESSIONS
	nftaTableFlags = 2 // NFTA_TABLE_FLAGS
)

// errCaptured ends the library's sending: it is asked for messages only.
var errCaptured = errors.New("captured")

// messages gives the batch of the transaction. The library writes it but for two
// things that it cannot say: flags of the table, and the direction of a conntrack
// zone.
func (t transaction) messages(table string) ([]netlink.Message, error) {
	var batch []netlink.Message
	conn, err := nftables.New(nftables.WithTestDial(func(request []netlink.Message) ([]netlink.Message, error) {
		batch = request
		return nil, errCaptured
	}))
	if err != nil {
		return nil, err
	}
	if err := t.queue(conn, table); err != nil {
		return nil, err
	}
	if err := conn.Flush(); err != nil && !errors.Is(err, errCaptured) {
		return nil, err
	}
	for i := range batch {
		m := &batch[i]
		// The connection that sends it numbers it.
		m.Header.Length, m.Header.Sequence, m.Header.PID = 0, 0, 0
		switch m.Header.Type {
		case header(unix.NFT_MSG_NEWTABLE):
			err = rewrite(m, nftaTableFlags, func([]byte) ([]byte, error) {
				return binary.BigEndian.AppendUint32(nil, t.flags), nil
			})
		case header(unix.NFT_MSG_NEWRULE):
			err = rewrite(m, nftaRuleExprs, directedList)
		}
		if err != nil {
			return nil, err
		}
	}
	return batch, nil
}

// rewrite replaces the content of one attribute of an nf_tables message.
func rewrite(m *netlink.Message, kind uint16, with func([]byte) ([]byte, error)) error {
	list, err := payload(*m)
	if err != nil {
		return err
	}
	for i := range list {
		if list[i].Type == kind {
			if list[i].Data, err = with(list[i].Data); err != nil {
				return err
			}
		}
	}
	body, err := netlink.MarshalAttributes(list)
	if err != nil {
		return err
	}
	const nfgenmsg = 4
	m.Data = append(m.Data[:nfgenmsg:nfgenmsg], body...)
	return nil
}

// directedList does what directed does for each expression of a rule.
func directedList(expressions []byte) ([]byte, error) {
	list, err := attributes(expressions)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].Data, err = directed(list[i].Data); err != nil {
			return nil, err
		}
	}
	return netlink.MarshalAttributes(list)
}

// directed adds to an expression that sets a conntrack zone that it does so for
// the original direction alone (nft_ct_set_init): without it the answers of our
// listeners, which no rule of ours sees, would belong to other connections.
func directed(item []byte) ([]byte, error) {
	list, err := attributes(item)
	if err != nil {
		return nil, err
	}
	isCt, zone := false, false
	var data *netlink.Attribute
	for i := range list {
		switch list[i].Type {
		case unix.NFTA_EXPR_NAME:
			isCt = text(list[i].Data) == "ct"
		case unix.NFTA_EXPR_DATA:
			data = &list[i]
		}
	}
	if !isCt || data == nil {
		return item, nil
	}
	inner, err := attributes(data.Data)
	if err != nil {
		return nil, err
	}
	set := false
	for _, a := range inner {
		zone = zone || a.Type == unix.NFTA_CT_KEY && number(a.Data) == unix.NFT_CT_ZONE
		set = set || a.Type == nftaCtSreg
	}
	if !zone || !set {
		return item, nil
	}
	inner = append(inner, netlink.Attribute{Type: unix.NFTA_CT_DIRECTION, Data: []byte{ctDirectionOriginal}})
	if data.Data, err = netlink.MarshalAttributes(inner); err != nil {
		return nil, err
	}
	return netlink.MarshalAttributes(list)
}

// send hands a batch to the kernel, which applies it as a whole, and reads the
// answers.
func send(nl *netlink.Conn, batch []netlink.Message) error {
	if len(batch) == 0 {
		return nil
	}
	err := errors.Join(
		nl.SetWriteBuffer(batchBuffer),
		nl.SetReadBuffer(batchBuffer),
		nl.SetDeadline(time.Now().Add(answerTimeout)),
	)
	if err != nil {
		return err
	}
	if _, err := nl.SendMessages(batch); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	var errs []error
	for _, m := range batch {
		if m.Header.Flags&netlink.Acknowledge == 0 {
			continue
		}
		if _, err := nl.Receive(); err != nil {
			// Of these the kernel tells only one (nfnetlink_rcv_batch).
			if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// dialWriter opens a connection for batches.
func dialWriter(ns *os.File) (*netlink.Conn, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: descriptor(ns)})
	if err != nil {
		return nil, fmt.Errorf("connect to nf_tables: %w", err)
	}
	return nl, nil
}
