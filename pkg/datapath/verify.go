package datapath

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"

	"sallyport/bpf"
)

// Verify compares what is in force with what was set: every link is on its cgroup
// with our program and has its pin, every tag, listener and setting is in its map.
// A link that somebody detaches sends no notice, so this is to be asked often; it
// costs two system calls for each link. Links of cgroups that are gone are no
// problem: nothing runs there.
func (d *Datapath) Verify() ([]Problem, error) {
	if d.absent {
		return nil, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var problems []Problem
	for _, a := range d.links {
		why, err := d.fault(a)
		if err != nil {
			return nil, err
		}
		if why != "" {
			problems = append(problems, Problem{What: a.String(), Why: why})
		}
	}
	var t bpf.SallyportSpTag
	for dir, want := range d.tagged {
		if err := d.maps.Tagged.Lookup(want.id, &t); err != nil || t != want.value() {
			problems = append(problems, Problem{What: "tag of " + dir, Why: "not in the kernel's map"})
		}
	}
	var l bpf.SallyportSpListeners
	for cookie, want := range d.listeners {
		if err := d.maps.Listeners.Lookup(cookie, &l); err != nil || l != want.value() {
			problems = append(problems, Problem{What: fmt.Sprintf("listeners of namespace %d", cookie), Why: "not in the kernel's map"})
		}
	}
	var c bpf.SallyportSpConfig
	if err := d.maps.Config.Lookup(uint32(0), &c); err != nil || c != d.config {
		problems = append(problems, Problem{What: "settings", Why: "not as they were set"})
	}
	return problems, nil
}

// fault says what is wrong with a link, "" if nothing is.
func (d *Datapath) fault(a *attachment) (string, error) {
	if a.link == nil {
		return "not attached", nil
	}
	info, err := a.link.Info()
	if err != nil {
		return "", fmt.Errorf("datapath: link of %s: %w", a, err)
	}
	want, err := d.programID(a.program(d))
	if err != nil {
		return "", fmt.Errorf("datapath: program of %s: %w", a, err)
	}
	cgroup := info.Cgroup()
	switch {
	case cgroup == nil:
		return "the link is of another kind", nil
	case cgroup.CgroupId == 0:
		// Detached by hand, or with its cgroup.
		if id, err := cgroupIDOf(a.dir); errors.Is(err, os.ErrNotExist) || err == nil && id != a.id {
			return "", nil
		}
		return "detached", nil
	case cgroup.CgroupId != a.id:
		return fmt.Sprintf("on cgroup %d instead of %d", cgroup.CgroupId, a.id), nil
	case info.Program != want:
		return "runs another program", nil
	}
	if _, err := os.Lstat(d.pinPath(a)); errors.Is(err, os.ErrNotExist) {
		return "the pin is gone", nil
	} else if err != nil {
		return "", fmt.Errorf("datapath: pin of %s: %w", a, err)
	}
	return "", nil
}

// programID gives the kernel's number of one of our programs, which stays; the
// kernel is asked once, since its answer holds much besides. d.mu is held.
func (d *Datapath) programID(p *ebpf.Program) (ebpf.ProgramID, error) {
	if id, known := d.ids[p]; known {
		return id, nil
	}
	info, err := p.Info()
	if err != nil {
		return 0, err
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("the kernel gives it no number")
	}
	d.ids[p] = id
	return id, nil
}

// Repair restores what Verify finds. What happened in between stays closed:
// sockets made without sock_create have no owner and cannot connect.
func (d *Datapath) Repair() error {
	if d.absent {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	errs := []error{d.writeConfig()}
	for dir, t := range d.tagged {
		if err := d.maps.Tagged.Update(t.id, t.value(), ebpf.UpdateAny); err != nil {
			errs = append(errs, fmt.Errorf("datapath: tag of %s: %w", dir, err))
		}
	}
	for cookie, l := range d.listeners {
		if err := d.maps.Listeners.Update(cookie, l.value(), ebpf.UpdateAny); err != nil {
			errs = append(errs, fmt.Errorf("datapath: listeners of namespace %d: %w", cookie, err))
		}
	}
	// d.links is in the order of attaching: egress before connect.
	for _, a := range d.links {
		why, err := d.fault(a)
		if err == nil && why != "" {
			err = d.reattach(a)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
