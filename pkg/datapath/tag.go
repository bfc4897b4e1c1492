package datapath

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"sallyport/bpf"
)

// tag is one tagged cgroup as it was when it was tagged.
type tag struct {
	id    uint64
	level uint32
	slice bool
}

// owner is the name that pins of a tagged cgroup begin with.
func owner(id uint64) string { return strconv.FormatUint(id, 10) }

// Attach tags the cgroup at this directory with all that is below it: it is one
// workload. What runs there already keeps its sockets, but they have no owner, so
// they neither connect nor send any more. Tagging it again does nothing. It
// returns ErrNested where a cgroup above or below is tagged. A failed Attach
// leaves nothing attached.
func (d *Datapath) Attach(cgroup string) error { return d.tag(cgroup, false) }

// AttachSlice tags as Attach does and makes each child of the cgroup a workload
// of its own: it has its own share of the places.
func (d *Datapath) AttachSlice(cgroup string) error { return d.tag(cgroup, true) }

func (d *Datapath) tag(dir string, slice bool) error {
	dir = filepath.Clean(dir)
	id, err := cgroupIDOf(dir)
	if err != nil {
		return err
	}
	level, err := levelOf(d.options.CgroupRoot, dir)
	if err != nil {
		return err
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	if t, ok := d.tagged[dir]; ok && t.id == id && t.slice == slice {
		return nil
	} else if ok {
		// The cgroup was made anew under its name, or changes its kind.
		if err := d.untag(dir); err != nil {
			return err
		}
	}
	for other := range d.tagged {
		if strings.HasPrefix(dir, other+"/") || strings.HasPrefix(other, dir+"/") {
			return fmt.Errorf("datapath: %s: %w (%s)", dir, ErrNested, other)
		}
	}
	d.tagged[dir] = tag{id: id, level: level, slice: slice}
	if d.absent {
		return nil
	}
	// The tag comes first: sock_create refuses without it, and the programs on the
	// root know by it whom to refuse foreign sockets.
	err = d.writeTag(dir)
	for _, h := range taggedHooks() {
		if err != nil {
			break
		}
		err = d.attach(h, owner(id), dir, id)
	}
	if err != nil {
		return errors.Join(err, d.untag(dir))
	}
	return nil
}

// Detach ends the tag of the cgroup. Its directory may be gone. Detaching what is
// not tagged does nothing.
func (d *Datapath) Detach(cgroup string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.untag(filepath.Clean(cgroup)); err != nil {
		return err
	}
	return d.sweep()
}

func (d *Datapath) untag(dir string) error {
	t, ok := d.tagged[dir]
	if !ok {
		return nil
	}
	var errs []error
	// In the reverse order of attaching: egress holds until the end.
	for i := len(d.links) - 1; i >= 0; i-- {
		if a := d.links[i]; a.owner == owner(t.id) {
			errs = append(errs, a.remove())
			d.links = slices.Delete(d.links, i, i+1)
		}
	}
	delete(d.tagged, dir)
	if d.absent {
		return nil
	}
	if err := d.maps.Tagged.Delete(t.id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		errs = append(errs, fmt.Errorf("datapath: tag of %s: %w", dir, err))
	}
	d.config.Levels = d.levels()
	return errors.Join(append(errs, d.writeConfig())...)
}

// writeTag publishes the tag of a directory in d.tagged.
func (d *Datapath) writeTag(dir string) error {
	t := d.tagged[dir]
	if err := d.maps.Tagged.Update(t.id, t.value(), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("datapath: tag of %s: %w", dir, err)
	}
	d.config.Levels = d.levels()
	return d.writeConfig()
}

func (t tag) value() bpf.SallyportSpTag {
	v := bpf.SallyportSpTag{Level: t.level}
	if t.slice {
		v.Slice = 1
	}
	return v
}

// levels has a bit for each level at which something is tagged.
func (d *Datapath) levels() (mask uint32) {
	for _, t := range d.tagged {
		mask |= 1 << t.level
	}
	return mask
}

// Tagged gives the ids of the tagged cgroups by directory.
func (d *Datapath) Tagged() map[string]uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string]uint64, len(d.tagged))
	for dir, t := range d.tagged {
		all[dir] = t.id
	}
	return all
}

// readBack learns what an earlier process has set from the pinned maps.
func (d *Datapath) readBack() error {
	if err := d.maps.Config.Lookup(uint32(0), &d.config); err != nil {
		return fmt.Errorf("datapath: settings: %w", err)
	}
	var id uint64
	var t bpf.SallyportSpTag
	gone := make(map[uint64]bool)
	for it := d.maps.Tagged.Iterate(); it.Next(&id, &t); {
		dir, err := cgroupPath(d.options.CgroupRoot, id)
		if errors.Is(err, os.ErrNotExist) {
			gone[id] = true
			continue
		}
		if err != nil {
			return err
		}
		d.tagged[dir] = tag{id: id, level: t.Level, slice: t.Slice != 0}
	}
	// A cgroup that ended meanwhile has no tasks: its tag and links go.
	for id := range maps.Keys(gone) {
		if err := d.maps.Tagged.Delete(id); err != nil {
			return fmt.Errorf("datapath: tag of a cgroup that is gone: %w", err)
		}
		pins, err := filepath.Glob(filepath.Join(d.linkDir(), owner(id)+"-*"))
		if err != nil {
			return fmt.Errorf("datapath: pins: %w", err)
		}
		for _, pin := range pins {
			if err := os.Remove(pin); err != nil {
				return fmt.Errorf("datapath: pin: %w", err)
			}
		}
	}
	var cookie uint64
	var l bpf.SallyportSpListeners
	for it := d.maps.Listeners.Iterate(); it.Next(&cookie, &l); {
		d.listeners[cookie] = Listeners{
			TCP4:  addrPort(l.Tcp4.Addr, l.Tcp4.Port),
			TCP6:  addrPort(l.Tcp6.Addr, l.Tcp6.Port),
			DNS4:  addrPort(l.Dns4.Addr, l.Dns4.Port),
			DNS6:  addrPort(l.Dns6.Addr, l.Dns6.Port),
			Probe: addrPort(l.Probe.Addr, l.Probe.Port),
		}
	}
	return d.readBackRules()
}
