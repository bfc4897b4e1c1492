package guard

import (
	"context"
	"errors"
	"os"
)

var errNotBuilt = errors.New("guard: not built")

// ErrNotSupported says that the kernel lacks something that the table needs.
var ErrNotSupported = errors.New("not supported by this kernel")

// Options say where the table is.
type Options struct {
	// Table is the name of the table in the family inet.
	Table string
	// Netns is the network namespace; nil is the process's own. It must stay
	// open as long as the Guard is used.
	Netns *os.File
}

// A Guard owns one nftables table in one network namespace.
type Guard struct{}

// New gives the owner of a table. It changes nothing in the kernel.
func New(o Options) (*Guard, error) { return nil, errNotBuilt }

// Apply makes the table what state says, in one transaction.
func (g *Guard) Apply(state State) error { return errNotBuilt }

// Check compares the table in the kernel with what Apply last made.
func (g *Guard) Check() ([]Problem, error) { return nil, errNotBuilt }

// Watch calls changed after each change of the table by somebody else, until
// ctx ends.
func (g *Guard) Watch(ctx context.Context, changed func()) error { return errNotBuilt }

// Counters gives what the guard refused since New.
func (g *Guard) Counters() (Counters, error) { return Counters{}, errNotBuilt }

// Resources gives how full the bounded sets are.
func (g *Guard) Resources() []Resource { return nil }

// Delete removes the table. An absent table is no error.
func (g *Guard) Delete() error { return errNotBuilt }

// Close ends the connection to the kernel; the table stays.
func (g *Guard) Close() error { return errNotBuilt }

// Supported reports nil where this kernel has everything the table needs; else
// an error that names each missing feature and wraps ErrNotSupported.
func Supported() error { return errNotBuilt }

// Tables lists the tables in ns (nil: here) that a Guard named prefix or
// prefix_NUMBER may have left.
func Tables(ns *os.File, prefix string) ([]string, error) { return nil, errNotBuilt }

// A Problem is one difference between the table in the kernel and what it must
// be.
type Problem struct {
	// Object names what is wrong, for example "chain output".
	Object string
	// Detail says how.
	Detail string
}

// String gives the problem as one line.
func (p Problem) String() string { return p.Object + ": " + p.Detail }

// A Resource says how full a bounded thing is.
type Resource struct {
	Name              string
	Entries, Capacity int
}

// Counters are packets refused since the Guard was made. They never go down,
// also when somebody flushed the table.
type Counters struct {
	// TCP, UDP and Other are packets of tagged sockets that were rejected.
	TCP, UDP, Other uint64
	// Inbound are connection attempts from outside to tagged listeners that no
	// Inbound entry permits.
	Inbound uint64
	// Rerouted are packets addressed to our listeners that another table sent
	// to another interface.
	Rerouted uint64
	// Cgroups has the rejected packets of each tagged cgroup by id.
	Cgroups map[uint64]uint64
}

// Rejected is the sum over all reasons.
func (c Counters) Rejected() uint64 { return c.TCP + c.UDP + c.Other + c.Inbound + c.Rerouted }
