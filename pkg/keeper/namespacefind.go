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
	own     uint64 // our own namespace's inode
	slice   uint64 // the cgroup of which each child is a workload; 0: none
	visited func(workload.Cgroup)
	sighted map[uint64]*sighting
	// cut is where there are more cgroups than are looked at.
	cut []*turn
}

// find looks at every process below the tagged cgroups. Namespaces are told apart
// by inode. What only a thread other than the first entered is not seen: it stays
// unknown, and so refused.
func (f *finder) find(tagged []workload.Cgroup) map[uint64]*sighting {
	f.sighted = make(map[uint64]*sighting)
	// What cannot be read has ended, or stays unknown.
	f.cut, _ = byTurnsBelow(tagged, maxDirectCgroups, f.visit)
	return f.sighted
}

func (f *finder) visit(t *turn) bool {
	cg := t.cgroup
	if f.visited != nil {
		f.visited(cg)
	}
	pids, err := cg.Procs()
	if errors.Is(err, workload.ErrGone) {
		return false
	}
	for _, pid := range pids {
		inode, err := netns.InodeOf(pid)
		if err != nil || inode == f.own {
			continue
		}
		s := f.sighted[inode]
		if s == nil {
			s = &sighting{workload: f.workloadOf(t).cgroup, cgroups: make(map[uint64]struct{})}
			f.sighted[inode] = s
		}
		if len(s.members) < maxMembers {
			s.members = append(s.members, member{pid, cg})
		}
		for at := t; at != nil; at = at.above {
			s.cgroups[at.cgroup.ID()] = struct{}{}
		}
	}
	return true
}

// workloadOf gives the cgroup of the workload to which one belongs.
func (f *finder) workloadOf(t *turn) *turn {
	for t.above != nil && t.above.cgroup.ID() != f.slice {
		t = t.above
	}
	return t
}

// missed reports whether not everything of a workload was looked at: a namespace of
// it that was not seen is not empty for that.
func (f *finder) missed(workload uint64) bool {
	return slices.ContainsFunc(f.cut, func(t *turn) bool {
		of := f.workloadOf(t).cgroup.ID()
		return of == workload || of == f.slice
	})
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
