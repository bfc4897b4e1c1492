package keeper

import (
	"cmp"
	"errors"
	"slices"

	"sallyport/pkg/netns"
	"sallyport/pkg/workload"
)

// A sighting is a network namespace in which tagged processes run.
type sighting struct {
	// members are some of them: any may end before its namespace is opened.
	members []member
	// workload is the cgroup of the workload to which the namespace is counted: a
	// tagged one, or a child of the slice.
	workload workload.Cgroup
	// cgroups are the ids of those that have a process there, with all above them
	// up to the tagged one.
	cgroups map[uint64]struct{}
}

// A member is a process in a tagged cgroup.
type member struct {
	pid int
	in  workload.Cgroup
}

// maxMembers bounds the processes by which a namespace is opened.
const maxMembers = 16

// finder looks for the network namespaces of tagged processes.
type finder struct {
	own      uint64 // our own namespace's inode
	slice    uint64 // the cgroup of which each child is a workload; 0: none
	left     int    // cgroups that may still be looked at
	visited  func(workload.Cgroup)
	sighted  map[uint64]*sighting
	ancestry []uint64
}

// find looks at every process below the tagged cgroups. Namespaces are told apart
// by inode. What only a thread other than the first entered is not seen: it stays
// unknown, and so refused.
func (f *finder) find(tagged []workload.Cgroup) map[uint64]*sighting {
	f.sighted = make(map[uint64]*sighting)
	f.left = maxDirectCgroups
	for _, cg := range tagged {
		f.visit(cg, cg)
	}
	return f.sighted
}

func (f *finder) visit(cg, of workload.Cgroup) {
	if f.left--; f.left < 0 {
		return
	}
	if f.visited != nil {
		f.visited(cg)
	}
	f.ancestry = append(f.ancestry, cg.ID())
	defer func() { f.ancestry = f.ancestry[:len(f.ancestry)-1] }()
	// What cannot be read has ended, or stays unknown.
	pids, err := cg.Procs()
	if errors.Is(err, workload.ErrGone) {
		return
	}
	for _, pid := range pids {
		inode, err := netns.InodeOf(pid)
		if err != nil || inode == f.own {
			continue
		}
		s := f.sighted[inode]
		if s == nil {
			s = &sighting{workload: of, cgroups: make(map[uint64]struct{})}
			f.sighted[inode] = s
		}
		if len(s.members) < maxMembers {
			s.members = append(s.members, member{pid, cg})
		}
		for _, id := range f.ancestry {
			s.cgroups[id] = struct{}{}
		}
	}
	children, err := cg.Children()
	if err != nil {
		return
	}
	for _, child := range children {
		if cg.ID() == f.slice {
			f.visit(child, child)
		} else {
			f.visit(child, of)
		}
	}
}

// byTurns orders namespaces so that workloads take turns: of each the first, then
// of each the second.
func byTurns(sighted map[uint64]*sighting) []uint64 {
	inodes := make([]uint64, 0, len(sighted))
	for inode := range sighted {
		inodes = append(inodes, inode)
	}
	slices.Sort(inodes)
	nth := make(map[uint64]int, len(inodes))
	seen := make(map[uint64]int)
	for _, inode := range inodes {
		w := sighted[inode].workload.ID()
		nth[inode] = seen[w]
		seen[w]++
	}
	slices.SortStableFunc(inodes, func(a, b uint64) int { return cmp.Compare(nth[a], nth[b]) })
	return inodes
}
