package datapath

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
)

// Absent gives the Datapath of a host without cgroup BPF, where the guard
// captures by itself: it knows what is tagged and where we listen, as its owner
// tells it, and does nothing with it. It has no flows, refusals and events, and
// nothing of it is in the kernel.
func Absent(o Options) *Datapath {
	d := newDatapath(o)
	d.absent = true
	return d
}

// Absent reports whether there are no programs.
func (d *Datapath) Absent() bool { return d.absent }

// Possible reports whether this kernel lets us have programs for cgroups at all.
// Supported knows more and takes longer.
func Possible() bool { return features.HaveProgramType(ebpf.CGroupSockAddr) == nil }
