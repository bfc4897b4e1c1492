package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cilium/ebpf"

	"sallyport/bpf"
)

// version is of the maps' layouts and of the names of the pins. A binary adopts
// only pins of its own version.
const version = "v1"

// A Datapath is the BPF side of one sallyport. Its methods may be called by
// several goroutines at once.
type Datapath struct {
	options Options
	absent  bool // see Absent
	maps    bpf.SallyportMaps
	progs   bpf.SallyportPrograms

	mu        sync.Mutex
	pins      string // directory of this version's pins
	links     []*attachment
	tagged    map[string]tag
	listeners map[uint64]Listeners
	own       int
	direct    directTable
	inbound   int
	named     []string // see names
	ids       map[*ebpf.Program]ebpf.ProgramID
	config    bpf.SallyportSpConfig
}

// Create loads and pins everything and attaches what does not belong to a tagged
// cgroup. It returns ErrExists where PinDir holds a Datapath. A failed Create
// leaves nothing behind but an empty PinDir.
func Create(o Options) (_ *Datapath, err error) {
	if o.Places == 0 {
		o.Places = DefaultPlaces
	}
	if err := checkRoot(o.CgroupRoot); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.PinDir, 0o700); err != nil {
		return nil, fmt.Errorf("datapath: directory for pins: %w", err)
	}
	final := filepath.Join(o.PinDir, version)
	if entries, err := os.ReadDir(o.PinDir); err != nil {
		return nil, fmt.Errorf("datapath: directory for pins: %w", err)
	} else if len(entries) > 0 {
		// What an interrupted Create left was never in force and is not adopted.
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), "new-") {
				return nil, fmt.Errorf("datapath: %s: %w", filepath.Join(o.PinDir, e.Name()), ErrExists)
			}
			if err := os.RemoveAll(filepath.Join(o.PinDir, e.Name())); err != nil {
				return nil, fmt.Errorf("datapath: pins of an interrupted start: %w", err)
			}
		}
	}

	d := newDatapath(o)
	d.pins = filepath.Join(o.PinDir, fmt.Sprintf("new-%d", os.Getpid()))
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close(), os.RemoveAll(d.pins))
		}
	}()
	for _, dir := range []string{d.pins, d.mapDir(), d.linkDir()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, fmt.Errorf("datapath: directory for pins: %w", err)
		}
	}
	if err := d.load(nil); err != nil {
		return nil, err
	}
	if err := d.pinMaps(); err != nil {
		return nil, err
	}
	d.config.Share = max(o.Places/2, 1)
	d.config.AskerShare = d.config.Share
	if err := d.writeConfig(); err != nil {
		return nil, err
	}
	if err := d.attachFixed(); err != nil {
		return nil, err
	}
	// The one commit point: pins are all there under their name, or none is.
	if err := os.Rename(d.pins, final); err != nil {
		return nil, fmt.Errorf("datapath: pins: %w", err)
	}
	d.pins = final
	return d, nil
}

// Open adopts the pins in PinDir: the maps with all flows stay, the programs of
// every link are replaced by this binary's, those of connect last. Links that are
// missing are made anew. It returns ErrNotPinned where there is nothing to adopt
// and ErrIncompatible where it is of another version.
func Open(o Options) (_ *Datapath, err error) {
	if err := checkRoot(o.CgroupRoot); err != nil {
		return nil, err
	}
	d := newDatapath(o)
	d.pins = filepath.Join(o.PinDir, version)
	if _, err := os.Stat(d.pins); errors.Is(err, os.ErrNotExist) {
		if others, _ := filepath.Glob(filepath.Join(o.PinDir, "v*")); len(others) > 0 {
			return nil, fmt.Errorf("datapath: %s: %w", others[0], ErrIncompatible)
		}
		return nil, fmt.Errorf("datapath: %s: %w", o.PinDir, ErrNotPinned)
	} else if err != nil {
		return nil, fmt.Errorf("datapath: pins: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	pinned, err := d.pinnedMaps()
	if err != nil {
		return nil, err
	}
	if err := d.load(pinned); err != nil {
		return nil, err
	}
	if err := d.pinNewMaps(pinned); err != nil {
		return nil, err
	}
	if err := d.readBack(); err != nil {
		return nil, err
	}
	if err := d.adoptLinks(); err != nil {
		return nil, err
	}
	return d, nil
}

func newDatapath(o Options) *Datapath {
	return &Datapath{
		options:   o,
		tagged:    make(map[string]tag),
		listeners: make(map[uint64]Listeners),
		direct:    directTable{names: make(map[uint32]string)},
		ids:       make(map[*ebpf.Program]ebpf.ProgramID),
	}
}

// Close gives the descriptors back and leaves the pins in force. Events must have
// returned.
func (d *Datapath) Close() error {
	if d.absent {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, a := range d.links {
		errs = append(errs, a.close())
	}
	d.links = nil
	errs = append(errs, d.progs.Close(), d.maps.Close())
	return errors.Join(errs...)
}

// Unload detaches everything and removes the pins with PinDir itself. The
// programs of egress go last, so that nothing leaves in between. Events must have
// returned.
func (d *Datapath) Unload() error {
	if d.absent {
		return nil
	}
	d.mu.Lock()
	var errs []error
	for i := len(d.links) - 1; i >= 0; i-- {
		errs = append(errs, d.links[i].remove())
	}
	d.links = nil
	d.mu.Unlock()
	errs = append(errs, d.Close(), os.RemoveAll(d.pins), os.Remove(d.options.PinDir))
	return errors.Join(errs...)
}

// Remove removes the pins in pinDir whatever their version, and with them the
// links that nothing else holds. It is for a Datapath that cannot be opened.
func Remove(pinDir string) error {
	// Removing a pin closes the last reference to its link, which detaches it.
	// Egress goes last.
	var last []string
	links, err := filepath.Glob(filepath.Join(pinDir, "*", "links", "*"))
	if err != nil {
		return fmt.Errorf("datapath: pins: %w", err)
	}
	for _, pin := range links {
		if strings.HasSuffix(pin, "-egress") {
			last = append(last, pin)
			continue
		}
		if err := os.Remove(pin); err != nil {
			return fmt.Errorf("datapath: pin: %w", err)
		}
	}
	for _, pin := range last {
		if err := os.Remove(pin); err != nil {
			return fmt.Errorf("datapath: pin: %w", err)
		}
	}
	if err := os.RemoveAll(pinDir); err != nil {
		return fmt.Errorf("datapath: pins: %w", err)
	}
	return nil
}

func (d *Datapath) mapDir() string  { return filepath.Join(d.pins, "maps") }
func (d *Datapath) linkDir() string { return filepath.Join(d.pins, "links") }

// writeConfig publishes d.config; the programs read it at each call.
func (d *Datapath) writeConfig() error {
	if err := d.maps.Config.Update(uint32(0), d.config, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("datapath: settings: %w", err)
	}
	return nil
}
