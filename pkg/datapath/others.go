package datapath

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Other is a program of somebody else at one of our hooks. It cannot let anything
// out: where several programs are attached each can refuse, and egress looks at what
// another connect program made of our target. But it can break connections.
type Other struct {
	Hook string
	// ID and Name are the program's, as bpftool prints them.
	ID   uint32
	Name string
}

func (o Other) String() string { return fmt.Sprintf("program %d (%s) at %s", o.ID, o.Name, o.Hook) }

// queryEffective is BPF_F_QUERY_EFFECTIVE of linux/bpf.h: programs of the cgroups
// above count too.
const queryEffective = 1

// Others lists the programs of others that run for the sockets of this cgroup, at
// the hooks where ours are: attached to it or above it. Firewalls of systemd
// (IPAddressAllow=) are at egress, and only refuse: they are left out. It costs
// eleven system calls.
func (d *Datapath) Others(cgroup string) ([]Other, error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, fmt.Errorf("datapath: cgroup: %w", err)
	}
	defer dir.Close()
	var all []Other
	for _, h := range taggedHooks() {
		if h.attach == ebpf.AttachCGroupInetEgress {
			continue
		}
		found, err := programsAt(dir, h.attach, queryEffective)
		if err != nil {
			return nil, fmt.Errorf("datapath: programs at %s of %s: %w", h.name, cgroup, err)
		}
		for _, p := range found.Programs {
			name, ours, err := d.known(p.ID)
			if err != nil {
				return nil, err
			}
			if !ours {
				all = append(all, Other{Hook: h.name, ID: uint32(p.ID), Name: name})
			}
		}
	}
	return all, nil
}

// programsAt asks for the number of programs and then for as many. One that is attached
// in between, also above, is one too many (ENOSPC).
func programsAt(cgroup *os.File, at ebpf.AttachType, flags uint32) (*link.QueryResult, error) {
	const tries = 100
	for n := 1; ; n++ {
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: at, QueryFlags: flags})
		if !errors.Is(err, unix.ENOSPC) || n == tries {
			return found, err
		}
	}
}

// known gives a program's name, and whether it is one of ours: of this instance,
// or of another one that runs on this host.
func (d *Datapath) known(id ebpf.ProgramID) (name string, ours bool, err error) {
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOENT) {
		return "", true, nil // detached since
	}
	if err != nil {
		return "", false, fmt.Errorf("datapath: program %d: %w", id, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", false, fmt.Errorf("datapath: program %d: %w", id, err)
	}
	return info.Name, slices.Contains(d.names(), info.Name), nil
}

// names gives those of our programs as the kernel keeps them, in 15 characters.
// They are asked for once: each answer takes several system calls, and programs are
// looked at all the time.
func (d *Datapath) names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.named == nil {
		for _, h := range slices.Concat(taggedHooks(), rootHooks(), keeperHooks()) {
			if name := programName(h.program(d)); name != "" {
				d.named = append(d.named, name)
			}
		}
	}
	return d.named
}

func programName(p *ebpf.Program) string {
	if p == nil {
		return ""
	}
	info, err := p.Info()
	if err != nil {
		return ""
	}
	return info.Name
}
