package guard

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ErrNotSupported says that the kernel lacks something that the table needs.
var ErrNotSupported = errors.New("not supported by this kernel")

// Supported reports nil where this kernel has everything that the table needs.
// Else the error names each missing feature with its kernel option and wraps
// ErrNotSupported. Without CAP_NET_ADMIN it is unix.EPERM and says nothing about
// the kernel.
//
// It asks by making a table and deleting it in the same transaction, in the
// process's network namespace: no packet ever meets it.
func Supported() error { return supported(false) }

// RedirectSupported reports the same for a table with a Redirect, and for the
// tables that a process owns.
func RedirectSupported() error { return supported(true) }

func supported(redirects bool) error {
	everything, err := whole(redirects)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	err = try(everything)
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("guard: nf_tables: %w; CAP_NET_ADMIN is needed", unix.EPERM)
	}
	var missing []string
	all := features()
	if redirects {
		all = append(all, redirectFeatures()...)
	}
	for _, f := range all {
		if featureErr := try(f.table); featureErr != nil {
			missing = append(missing, fmt.Sprintf("%s (%v)", f.name, root(featureErr)))
		}
	}
	if len(missing) == 0 {
		missing = []string{fmt.Sprintf("the table as a whole (%v)", root(err))}
	}
	return fmt.Errorf("guard: nf_tables lacks %s: %w", strings.Join(missing, ", "), ErrNotSupported)
}

// root gives the kernel's own error number where there is one.
func root(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// whole is a table with every kind of rule and set.
func whole(redirects bool) (transaction, error) {
	s := State{
		Listeners: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("[::1]:1")},
		Tagged:    []Cgroup{{ID: math.MaxUint64, Level: 1}}, // no cgroup has this id
		Direct:    []Direct{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), First: 1, Last: 2, Protocol: TCP}},
	}
	if redirects {
		s.Resolvers = s.Listeners
		s.Redirect = &Redirect{Zone: 1, Receivers: s.Tagged}
	}
	r, err := build(s)
	if err != nil {
		return transaction{}, err
	}
	if redirects {
		r.flags = tableOwner
	}
	want, err := expect(r)
	if err != nil {
		return transaction{}, err
	}
	return remake(want, false), nil
}

// redirectFeatures are those that only a Redirect needs.
func redirectFeatures() []feature {
	with := func(c chain) transaction {
		return transaction{create: true, addChains: []chain{c}, rewrite: []chain{c}}
	}
	zone := chain{name: chainZone, hook: nftables.ChainHookOutput, at: priorityZone, rules: []rule{{"", setZone(1)}}}
	nat := chain{
		name: chainRedirect, kind: nftables.ChainTypeNAT, hook: nftables.ChainHookOutput, at: priorityRedirect,
		rules: []rule{{"", concat(transport(unix.IPPROTO_TCP), redirect(1))}},
	}
	return []feature{
		{"conntrack zones (CONFIG_NF_CONNTRACK_ZONES)", with(zone)},
		{"redirect (CONFIG_NFT_NAT, CONFIG_NFT_REDIR, CONFIG_NF_NAT_REDIRECT)", with(nat)},
		{"tables with an owner (Linux 5.12)", transaction{create: true, flags: tableOwner}},
	}
}

// A feature is one thing that the kernel must have.
type feature struct {
	name  string
	table transaction
}

// features lists what can be missing, each with the smallest table that shows
// it.
func features() []feature {
	// Expressions are checked against the hook of the chain that they are in.
	output := func(body match) transaction {
		c := chain{name: "output", hook: nftables.ChainHookOutput}
		if body != nil {
			c.rules = []rule{{"", body}}
		}
		return transaction{create: true, addChains: []chain{c}, rewrite: []chain{c}}
	}
	input := func(body match) transaction {
		c := chain{name: "input", hook: nftables.ChainHookInput, rules: []rule{{"", body}}}
		return transaction{create: true, addChains: []chain{c}, rewrite: []chain{c}}
	}
	interval := set{
		name: "interval", id: 1, capacity: 1, interval: true,
		key: fields(nftables.TypeInetProto, nftables.TypeIPAddr, nftables.TypeInetService),
	}
	counting := set{name: "counting", id: 1, capacity: 1, counting: true, key: nftables.TypeCGroupV2}
	return []feature{
		{"chains of the family inet (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)", output(nil)},
		{"socket cgroupv2 (CONFIG_NFT_SOCKET, CONFIG_SOCK_CGROUP_DATA, cgroup2; Linux 5.13)", output(match{loadCgroup(1, 0)})},
		{"conntrack direction (CONFIG_NFT_CT, CONFIG_NF_CONNTRACK)", output(direction(ctDirectionReply))},
		{"conntrack labels (CONFIG_NF_CONNTRACK_LABELS)", input(setLabel())},
		{"fib (CONFIG_NFT_FIB_INET)", input(fromHere())},
		{"reject (CONFIG_NFT_REJECT_INET)", output(match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})},
		{"concatenated intervals (Linux 5.6)", transaction{create: true, addSets: []set{interval}}},
		{"counters in sets (Linux 5.11)", transaction{create: true, addSets: []set{counting}}},
		{"named counters (CONFIG_NFT_OBJREF)", transaction{create: true, addCounters: []string{countTCP}}},
	}
}

// try sends a table together with its deletion.
func try(t transaction) error {
	nl, err := dialWriter(nil)
	if err != nil {
		return err
	}
	defer nl.Close()
	// One name for each process: several may ask at the same time.
	table := fmt.Sprintf("sallyport_probe_%d", os.Getpid())
	t.vanish = true
	return t.commit(nl, table)
}
