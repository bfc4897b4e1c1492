package keeper

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport/pkg/keeper/protocol"
)

func TestNewlyRejected(t *testing.T) {
	const probe = 9
	for name, c := range map[string]struct {
		now, seen map[uint64]uint64
		want      []protocol.Rejected
	}{
		"nothing":            {map[uint64]uint64{1: 5}, map[uint64]uint64{1: 5}, nil},
		"first":              {map[uint64]uint64{1: 5}, nil, []protocol.Rejected{{Cgroup: 1, Packets: 5}}},
		"more":               {map[uint64]uint64{1: 7}, map[uint64]uint64{1: 5}, []protocol.Rejected{{Cgroup: 1, Packets: 2}}},
		"the probe's":        {map[uint64]uint64{probe: 7}, nil, nil},
		"a cgroup made anew": {map[uint64]uint64{2: 1}, map[uint64]uint64{1: 5}, []protocol.Rejected{{Cgroup: 2, Packets: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, newlyRejected(c.now, c.seen, probe)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
