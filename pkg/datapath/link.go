package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// A hook is one program and where it is attached.
type hook struct {
	name    string
	attach  ebpf.AttachType
	program func(*Datapath) *ebpf.Program
}

// taggedHooks sit on each tagged cgroup, in the order in which they are attached.
// Egress is first: from then on nothing leaves that no other program decided.
// connect is last: a socket that it captures has all the others behind it.
func taggedHooks() []hook {
	return []hook{
		{"egress", ebpf.AttachCGroupInetEgress, func(d *Datapath) *ebpf.Program { return d.progs.Egress }},
		{"sock_create", ebpf.AttachCGroupInetSockCreate, func(d *Datapath) *ebpf.Program { return d.progs.SockCreate }},
		{"set_option", ebpf.AttachCGroupSetsockopt, func(d *Datapath) *ebpf.Program { return d.progs.SetOption }},
		{"sock_release", ebpf.AttachCgroupInetSockRelease, func(d *Datapath) *ebpf.Program { return d.progs.SockRelease }},
		{"sock_ops", ebpf.AttachCGroupSockOps, func(d *Datapath) *ebpf.Program { return d.progs.SockOps }},
		{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg, func(d *Datapath) *ebpf.Program { return d.progs.Recvmsg4 }},
		{"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg, func(d *Datapath) *ebpf.Program { return d.progs.Recvmsg6 }},
		{"getpeername4", ebpf.AttachCgroupInet4GetPeername, func(d *Datapath) *ebpf.Program { return d.progs.Getpeername4 }},
		{"getpeername6", ebpf.AttachCgroupInet6GetPeername, func(d *Datapath) *ebpf.Program { return d.progs.Getpeername6 }},
		{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, func(d *Datapath) *ebpf.Program { return d.progs.Sendmsg4 }},
		{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, func(d *Datapath) *ebpf.Program { return d.progs.Sendmsg6 }},
		{"connect4", ebpf.AttachCGroupInet4Connect, func(d *Datapath) *ebpf.Program { return d.progs.Connect4 }},
		{"connect6", ebpf.AttachCGroupInet6Connect, func(d *Datapath) *ebpf.Program { return d.progs.Connect6 }},
	}
}

// rootHooks sit on the root of cgroup2.
func rootHooks() []hook {
	return []hook{
		{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, func(d *Datapath) *ebpf.Program { return d.progs.ForeignSendmsg4 }},
		{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, func(d *Datapath) *ebpf.Program { return d.progs.ForeignSendmsg6 }},
		{"connect4", ebpf.AttachCGroupInet4Connect, func(d *Datapath) *ebpf.Program { return d.progs.ForeignConnect4 }},
		{"connect6", ebpf.AttachCGroupInet6Connect, func(d *Datapath) *ebpf.Program { return d.progs.ForeignConnect6 }},
	}
}

// keeperHooks sit on the cgroup in which the listeners are made.
func keeperHooks() []hook {
	return []hook{
		{"sock_ops", ebpf.AttachCGroupSockOps, func(d *Datapath) *ebpf.Program { return d.progs.SockOpsAccept }},
	}
}

// An attachment is one link: our program on one cgroup.
type attachment struct {
	hook
	owner string // "root", "keeper" or the tagged cgroup's id: first part of the pin's name
	dir   string // the cgroup's directory
	id    uint64 // the cgroup's id
	link  link.Link
}

func (a *attachment) String() string {
	if a.owner == "root" {
		return "foreign " + a.name + " on " + a.dir
	}
	return a.name + " on " + a.dir
}

// attach makes the link and pins it. Only bpf_link will do: the older way of
// attaching cannot be pinned and is undone by nobody.
func (d *Datapath) attach(h hook, owner, dir string, id uint64) error {
	a := &attachment{hook: h, owner: owner, dir: dir, id: id}
	if err := d.connect(a); err != nil {
		return err
	}
	d.links = append(d.links, a)
	return nil
}

func (d *Datapath) pinPath(a *attachment) string {
	return filepath.Join(d.linkDir(), a.owner+"-"+a.name)
}

// connect gives the attachment a new link and pin.
func (d *Datapath) connect(a *attachment) error {
	cgroup, err := os.Open(a.dir)
	if err != nil {
		return fmt.Errorf("datapath: cgroup: %w", err)
	}
	defer cgroup.Close()
	// Linking by name would take a cgroup that was made anew since.
	if id, err := cgroupID(cgroup); err != nil || id != a.id {
		return errors.Join(fmt.Errorf("datapath: cgroup %s is not the one that was tagged", a.dir), err)
	}
	l, err := link.AttachRawLink(link.RawLinkOptions{
		Target:  int(cgroup.Fd()),
		Program: a.program(d),
		Attach:  a.attach,
	})
	if err != nil {
		return fmt.Errorf("datapath: attaching %s: %w", a, err)
	}
	if err := l.Pin(d.pinPath(a)); err != nil {
		return errors.Join(fmt.Errorf("datapath: pin of %s: %w", a, err), l.Close())
	}
	// A raw link does not tell its cgroup; the pinned one is typed.
	typed, err := link.LoadPinnedLink(d.pinPath(a), nil)
	if err != nil {
		return errors.Join(fmt.Errorf("datapath: pin of %s: %w", a, err), l.Close())
	}
	a.link = typed
	return l.Close()
}

func (a *attachment) close() error {
	if a.link == nil {
		return nil
	}
	err := a.link.Close()
	a.link = nil
	return err
}

// remove detaches the program and removes the pin.
func (a *attachment) remove() error {
	if a.link == nil {
		return nil
	}
	err := a.link.Unpin()
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, a.close())
}

// attachFixed attaches what does not depend on tags.
func (d *Datapath) attachFixed() error {
	for _, part := range []struct {
		owner, dir string
		hooks      []hook
	}{
		{"root", d.options.CgroupRoot, rootHooks()},
		{"keeper", d.options.KeeperCgroup, keeperHooks()},
	} {
		id, err := cgroupIDOf(part.dir)
		if err != nil {
			return err
		}
		for _, h := range part.hooks {
			if err := d.attach(h, part.owner, part.dir, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// adoptLinks takes over the pinned links, hook by hook over all cgroups, so that
// connect gets its new program when everything behind it has one.
func (d *Datapath) adoptLinks() error {
	type place struct {
		owner, dir string
		id         uint64
	}
	adopt := func(h hook, p place) error {
		a := &attachment{hook: h, owner: p.owner, dir: p.dir, id: p.id}
		l, err := link.LoadPinnedLink(d.pinPath(a), nil)
		if errors.Is(err, os.ErrNotExist) {
			return d.attach(h, p.owner, p.dir, p.id)
		}
		if err != nil {
			return fmt.Errorf("datapath: link of %s: %w", a, err)
		}
		a.link = l
		d.links = append(d.links, a)
		if info, err := l.Info(); err == nil && info.Cgroup() != nil && info.Cgroup().CgroupId == a.id {
			if err := l.Update(a.program(d)); err != nil {
				return fmt.Errorf("datapath: new program for %s: %w", a, err)
			}
			return nil
		}
		// Detached by somebody, or of a cgroup that the keeper has left.
		return d.reattach(a)
	}
	root, err := cgroupIDOf(d.options.CgroupRoot)
	if err != nil {
		return err
	}
	keeper, err := cgroupIDOf(d.options.KeeperCgroup)
	if err != nil {
		return err
	}
	for _, h := range keeperHooks() {
		if err := adopt(h, place{"keeper", d.options.KeeperCgroup, keeper}); err != nil {
			return err
		}
	}
	for _, h := range taggedHooks() {
		for dir, t := range d.tagged {
			if err := adopt(h, place{owner(t.id), dir, t.id}); err != nil {
				return err
			}
		}
	}
	for _, h := range rootHooks() {
		if err := adopt(h, place{"root", d.options.CgroupRoot, root}); err != nil {
			return err
		}
	}
	return nil
}

// reattach gives an attachment a new link before the old one goes: if the old one
// still works, there is no moment without a program.
func (d *Datapath) reattach(a *attachment) error {
	old := a.link
	if err := os.Remove(d.pinPath(a)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("datapath: pin of %s: %w", a, err)
	}
	a.link = nil
	if err := d.connect(a); err != nil {
		a.link = old
		return err
	}
	if old != nil {
		return old.Close()
	}
	return nil
}
