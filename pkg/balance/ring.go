package balance

import (
	"slices"
	"sort"
	"strconv"
)

// pointsPerTarget is how many points of the ring a target of the usual weight
// has, as in nginx and Kong; maxPoints bounds those of all.
const (
	pointsPerTarget = 160
	maxPoints       = 1 << 16
)

// A point is where a target stands on the ring.
type point struct {
	at     uint64
	target *Target
}

// newRing puts each target on the ring as often as its weight says. Where a
// point lies depends on the target alone, so that a target that comes or goes
// moves only the keys that are or were its own.
func newRing(targets []*Target) []point {
	weights := make([]int, 0, len(targets))
	var in []*Target
	for _, t := range targets {
		if t.weight > 0 {
			in, weights = append(in, t), append(weights, t.weight)
		}
	}
	sum := 0
	weights = reduced(weights)
	for _, w := range weights {
		sum += w
	}
	var ring []point
	for i, t := range in {
		n := weights[i] * pointsPerTarget
		if sum*pointsPerTarget > maxPoints {
			n = max(weights[i]*maxPoints/sum, 1)
		}
		for k := range n {
			ring = append(ring, point{hash(t.name + "#" + strconv.Itoa(k)), t})
		}
	}
	slices.SortFunc(ring, func(a, b point) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return a.target.index - b.target.index
	})
	return ring
}

// hashed gives the first healthy target from the key on.
func (u *Upstream) hashed(key uint64, tried []*Target) *Target {
	n := len(u.ring)
	at := sort.Search(n, func(i int) bool { return u.ring[i].at >= key })
	for range n {
		if at == n {
			at = 0
		}
		t := u.ring[at].target
		if !t.state.down.Load() && (len(tried) == 0 || !slices.Contains(tried, t)) {
			return t
		}
		at++
	}
	return nil
}

// hash is FNV-1a with the final mixing of MurmurHash3: the same on every host
// and in every process.
func hash(s string) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
