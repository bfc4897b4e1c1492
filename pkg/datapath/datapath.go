package datapath

import (
	"context"
	"net/netip"
	"os"
)

// A Datapath is the BPF side of one sallyport.
type Datapath struct{}

// Supported reports whether this kernel can do what is needed. The error names
// all that is missing and wraps ErrNotSupported.
func Supported() error { return nil }

// Create loads and pins everything and attaches what does not belong to a tagged
// cgroup. It returns ErrExists where PinDir holds a Datapath. A failed Create
// leaves nothing behind.
func Create(o Options) (*Datapath, error) { return nil, nil }

// Open adopts the pins in PinDir: the maps with all flows stay, the programs of
// every link are replaced by this binary's, those of connect last. It returns
// ErrNotPinned or ErrIncompatible.
func Open(o Options) (*Datapath, error) { return nil, nil }

// Close gives the descriptors back and leaves the pins in force.
func (d *Datapath) Close() error { return nil }

// Unload detaches everything and removes the pins.
func (d *Datapath) Unload() error { return nil }

// Attach tags the cgroup at this directory: it is one workload.
func (d *Datapath) Attach(cgroup string) error { return nil }

// AttachSlice tags the cgroup at this directory and makes each child of it a
// workload of its own, for the share of places.
func (d *Datapath) AttachSlice(cgroup string) error { return nil }

// Detach ends the tag of the cgroup. Its directory may be gone.
func (d *Datapath) Detach(cgroup string) error { return nil }

// Tagged gives the tagged cgroups, id by directory.
func (d *Datapath) Tagged() map[string]uint64 { return nil }

// MarkListener marks a TCP listener or the resolver's UDP socket as ours.
func (d *Datapath) MarkListener(fd uintptr) error { return nil }

// SetListeners says where flows of the namespace with this cookie go.
func (d *Datapath) SetListeners(netns uint64, l Listeners) error { return nil }

// RemoveListeners makes everything in the namespace be refused.
func (d *Datapath) RemoveListeners(netns uint64) error { return nil }

// SetOwnAddresses replaces the addresses, besides the listeners, that no workload
// may name. An unspecified address stands for loopback.
func (d *Datapath) SetOwnAddresses(a []netip.AddrPort) error { return nil }

// SetDirect replaces all direct rules at once.
func (d *Datapath) SetDirect(rules []DirectRule) error { return nil }

// SetInbound replaces the ports on which workloads may answer other hosts.
func (d *Datapath) SetInbound(ports []InboundPort) error { return nil }

// SetProbe says which cgroup is the self-probe's.
func (d *Datapath) SetProbe(p Probe) error { return nil }

// Flows gives every flow that holds a place.
func (d *Datapath) Flows() ([]FlowStats, error) { return nil, nil }

// Refusals gives how often each reason was given since Create.
func (d *Datapath) Refusals() (map[Reason]uint64, error) { return nil, nil }

// EventsLost gives how many events did not fit into their buffers.
func (d *Datapath) EventsLost() (uint64, error) { return 0, nil }

// Resources gives every bounded table and how full it is.
func (d *Datapath) Resources() ([]Resource, error) { return nil, nil }

// Events calls f for each event until the context ends. One call at a time.
func (d *Datapath) Events(ctx context.Context, f func(Event)) error { return nil }

// Verify compares links, pins and map entries with what was set.
func (d *Datapath) Verify() ([]Problem, error) { return nil, nil }

// Repair restores what Verify finds.
func (d *Datapath) Repair() error { return nil }

// Sweep frees what belongs to cgroups that are gone.
func (d *Datapath) Sweep() error { return nil }

// AcceptedMap opens the storage of accepted sockets, read-only, for
// origin.NewReader in the worker.
func (d *Datapath) AcceptedMap() (*os.File, error) { return nil, nil }

// AskerMap opens the table of DNS clients, read-only, for origin.NewReader.
func (d *Datapath) AskerMap() (*os.File, error) { return nil, nil }
