package datapath

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"sallyport/bpf"
)

// Supported reports whether this kernel can do what is needed. The error names
// all that is missing and wraps ErrNotSupported; without the privilege to ask it
// says so instead.
func Supported() error {
	spec, err := specification(Options{Places: 2, EventBuffer: uint32(os.Getpagesize())})
	if err != nil {
		return err
	}
	unlimit()
	// Loading is the probe: versions say nothing about what a vendor's kernel has.
	c, err := ebpf.NewCollection(spec)
	if err == nil {
		c.Close()
		return nil
	}
	if errors.Is(err, unix.EPERM) && unix.Geteuid() != 0 {
		return fmt.Errorf("datapath: loading BPF programs: %w", err)
	}
	return errors.Join(append([]error{fmt.Errorf("datapath: %w: %w", ErrNotSupported, err)}, missing(spec)...)...)
}

// unlimit lifts RLIMIT_MEMLOCK where maps count against it, which is before Linux
// 5.11: there it would be named as what is missing, and be what is not. Without
// the privilege to, the limit speaks for itself.
func unlimit() { _ = rlimit.RemoveMemlock() }

// missing names each map type and each helper of a program type that the kernel
// does not have.
func missing(spec *ebpf.CollectionSpec) []error {
	var all []error
	seen := make(map[string]bool)
	note := func(what string, err error) {
		if errors.Is(err, ebpf.ErrNotSupported) && !seen[what] {
			seen[what] = true
			all = append(all, fmt.Errorf("missing: %s", what))
		}
	}
	for _, m := range spec.Maps {
		note(fmt.Sprintf("map type %s", m.Type), features.HaveMapType(m.Type))
	}
	for _, p := range spec.Programs {
		note(fmt.Sprintf("program type %s", p.Type), features.HaveProgramType(p.Type))
		for _, ins := range p.Instructions {
			if ins.IsBuiltinCall() {
				helper := asm.BuiltinFunc(ins.Constant)
				note(fmt.Sprintf("%s for %s", helper, p.Type), features.HaveProgramHelper(p.Type, helper))
			}
		}
	}
	return all
}

// specification gives the programs and maps with the sizes that are wanted.
func specification(o Options) (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadSallyport()
	if err != nil {
		return nil, fmt.Errorf("datapath: object: %w", err)
	}
	for _, name := range []string{"places", "handoffs", "askers"} {
		spec.Maps[name].MaxEntries = o.Places
	}
	if o.EventBuffer > 0 {
		size := max(o.EventBuffer, uint32(os.Getpagesize()))
		spec.Maps["events"].MaxEntries = 1 << bits.Len32(size-1)
	}
	return spec, nil
}

// load brings programs and maps into the kernel. Pinned maps take the place of
// new ones.
func (d *Datapath) load(pinned map[string]*ebpf.Map) error {
	spec, err := specification(d.options)
	if err != nil {
		return err
	}
	unlimit()
	// Sizes were chosen when the maps were made.
	for name, m := range pinned {
		if spec.Maps[name] != nil {
			spec.Maps[name].MaxEntries = m.MaxEntries()
		}
	}
	err = spec.Copy().LoadAndAssign(&d.maps, &ebpf.CollectionOptions{MapReplacements: pinned})
	switch {
	case errors.Is(err, ebpf.ErrMapIncompatible):
		return fmt.Errorf("datapath: %w: %w", ErrIncompatible, err)
	case err != nil:
		return fmt.Errorf("datapath: making maps: %w", err)
	}
	if err := d.loadPrograms(spec); err != nil {
		return errors.Join(fmt.Errorf("datapath: loading programs: %w", err), d.maps.Close())
	}
	return nil
}

// namedMap is one map and the name of its pin.
type namedMap struct {
	name string
	m    *ebpf.Map
}

func (d *Datapath) allMaps() []namedMap {
	m := &d.maps
	return []namedMap{
		{"sockets", m.Sockets}, {"marks", m.Marks}, {"accepted", m.Accepted},
		{"places", m.Places}, {"handoffs", m.Handoffs}, {"askers", m.Askers},
		{"shares", m.Shares}, {"tagged", m.Tagged}, {"listeners", m.Listeners},
		{"own", m.Own}, {"direct", m.Direct}, {"direct_rules", m.DirectRules},
		{"inbound", m.Inbound}, {"config", m.Config}, {"counters", m.Counters},
		{"refusals", m.Refusals}, {"refusals_any", m.RefusalsAny},
		{"refusals_told", m.RefusalsTold}, {"events", m.Events},
	}
}

func (d *Datapath) pinMaps() error { return d.pinNewMaps(nil) }

// pinnedMaps opens every pinned map; the caller hands them to load, which takes
// copies. A map that is not there was not known to whoever pinned them: load makes
// it, and pinNewMaps its pin.
func (d *Datapath) pinnedMaps() (map[string]*ebpf.Map, error) {
	all := make(map[string]*ebpf.Map)
	for _, n := range d.allMaps() {
		m, err := ebpf.LoadPinnedMap(filepath.Join(d.mapDir(), n.name), nil)
		if errors.Is(err, os.ErrNotExist) && n.name != essential {
			continue
		}
		if err != nil {
			for _, m := range all {
				err = errors.Join(err, m.Close())
			}
			return nil, fmt.Errorf("datapath: map %s: %w: %w", n.name, ErrNotPinned, err)
		}
		all[n.name] = m
	}
	return all, nil
}

// essential is the map without which there is nothing to adopt.
const essential = "tagged"

// pinNewMaps pins the maps that were not pinned.
func (d *Datapath) pinNewMaps(pinned map[string]*ebpf.Map) error {
	for _, n := range d.allMaps() {
		if pinned[n.name] != nil {
			continue
		}
		if err := n.m.Pin(filepath.Join(d.mapDir(), n.name)); err != nil {
			return fmt.Errorf("datapath: pin of map %s: %w", n.name, err)
		}
	}
	return nil
}

// AcceptedMap opens the storage of accepted sockets, read-only, for
// origin.NewReader in the worker.
func (d *Datapath) AcceptedMap() (*os.File, error) { return d.readOnly("accepted") }

// AskerMap opens the table of DNS clients, read-only, for origin.NewReader.
func (d *Datapath) AskerMap() (*os.File, error) { return d.readOnly("askers") }

// readOnly opens a pinned map so that the kernel refuses writes through it.
func (d *Datapath) readOnly(name string) (*os.File, error) {
	d.mu.Lock()
	path := filepath.Join(d.mapDir(), name)
	d.mu.Unlock()
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("datapath: map %s: %w", name, err)
	}
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err := errors.Join(err, m.Close()); err != nil {
		return nil, fmt.Errorf("datapath: descriptor of map %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "bpf-map:"+name), nil
}
