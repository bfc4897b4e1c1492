package datapath

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sallyport/bpf"
)

// Indexes of the map counters after enum sp_counter.
const (
	countEventsLost = uint32(reasonCount) + iota
	countPlaces
	countHandoffs
	countAskers
)

// Progress of a flow, after enum sp_progress.
const progressEstablished = 2

// batch is how many entries are read with one system call.
const batch = 256

// Flows gives every flow that holds a place.
func (d *Datapath) Flows() ([]FlowStats, error) {
	if d.absent {
		return nil, nil
	}
	clock, err := newClock()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var flows []FlowStats
	err = eachEntry(d.maps.Places, func(_ uint64, f *bpf.SallyportSpFlow) error {
		flows = append(flows, d.stats(f, clock))
		return nil
	})
	return flows, err
}

// stats turns the kernel's record into ours. The caller holds d.mu.
func (d *Datapath) stats(f *bpf.SallyportSpFlow, clock clock) FlowStats {
	s := FlowStats{
		ID:          f.Cookie,
		Cgroup:      f.Cgroup,
		Workload:    f.Workload,
		Netns:       f.Netns,
		Kind:        Kind(f.Kind),
		Protocol:    Protocol(f.Protocol),
		Src:         addrPort(f.Src, f.Sport),
		Dst:         addrPort(f.Dst, f.Dport),
		PID:         f.Pid,
		UID:         f.Uid,
		Rule:        d.direct.names[f.Rule],
		Established: f.Progress == progressEstablished,
		Totals: Totals{
			BytesSent:     f.Sent,
			BytesReceived: f.Received,
			SegmentsOut:   f.SegsOut,
			SegmentsIn:    f.SegsIn,
			Retransmits:   f.Retrans,
			RTT:           time.Duration(f.Srtt) * time.Microsecond,
		},
	}
	if f.Opened != 0 {
		s.Opened = clock.wall(f.Opened)
	}
	return s
}

// Refusals gives how often each reason was given since Create. Every reason is
// there, also with 0.
func (d *Datapath) Refusals() (map[Reason]uint64, error) {
	if d.absent {
		return map[Reason]uint64{}, nil
	}
	all := make(map[Reason]uint64, reasonCount)
	for _, r := range Reasons() {
		n, err := d.counter(uint32(r))
		if err != nil {
			return nil, err
		}
		all[r] = n
	}
	return all, nil
}

// EventsLost gives how many events did not fit into their buffers. What they told
// is in Refusals.
func (d *Datapath) EventsLost() (uint64, error) {
	if d.absent {
		return 0, nil
	}
	return d.counter(countEventsLost)
}

// counter sums one counter over the CPUs. Single CPUs may be negative: what one
// took another may give back.
func (d *Datapath) counter(index uint32) (uint64, error) {
	var perCPU []uint64
	if err := d.maps.Counters.Lookup(index, &perCPU); err != nil {
		return 0, fmt.Errorf("datapath: counter %d: %w", index, err)
	}
	var sum uint64
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}

// Resources gives every bounded table and how full it is.
func (d *Datapath) Resources() ([]Resource, error) {
	if d.absent {
		return nil, nil
	}
	var out []Resource
	for _, c := range []struct {
		name    string
		counter uint32
		m       *ebpf.Map
	}{
		{"bpf_places", countPlaces, d.maps.Places},
		{"bpf_handoffs", countHandoffs, d.maps.Handoffs},
		{"bpf_askers", countAskers, d.maps.Askers},
	} {
		n, err := d.counter(c.counter)
		if err != nil {
			return nil, err
		}
		out = append(out, Resource{c.name, n, uint64(c.m.MaxEntries())})
	}
	for _, c := range []struct {
		name string
		m    *ebpf.Map
	}{
		{"bpf_workloads", d.maps.Shares},
		{"bpf_refusals", d.maps.Refusals},
		{"bpf_refusals_any", d.maps.RefusalsAny},
	} {
		n, err := entriesBatched(c.m)
		if err != nil {
			return nil, err
		}
		out = append(out, Resource{c.name, n, uint64(c.m.MaxEntries())})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return append(out,
		Resource{"bpf_tagged", uint64(len(d.tagged)), uint64(d.maps.Tagged.MaxEntries())},
		Resource{"bpf_listeners", uint64(len(d.listeners)), uint64(d.maps.Listeners.MaxEntries())},
		Resource{"bpf_own_addresses", uint64(d.own), uint64(d.maps.Own.MaxEntries())},
		Resource{"bpf_direct_prefixes", uint64(d.direct.prefixes), directPrefixes},
		Resource{"bpf_direct_rules", uint64(len(d.direct.names)), uint64(d.maps.DirectRules.MaxEntries())},
		Resource{"bpf_inbound_ports", uint64(d.inbound), uint64(d.maps.Inbound.MaxEntries())},
	), nil
}

// Sweep frees the shares of workloads whose cgroup is gone and which hold nothing
// any more. Detach does it too; where workloads come and go below a slice, it is
// to be called every minute or so.
func (d *Datapath) Sweep() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sweep()
}

func (d *Datapath) sweep() error {
	if d.absent {
		return nil
	}
	var idle []uint64
	err := eachEntry(d.maps.Shares, func(id uint64, s *bpf.SallyportSpShare) error {
		if s.Places <= 0 && s.Askers <= 0 {
			idle = append(idle, id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range idle {
		if _, err := cgroupPath(d.options.CgroupRoot, id); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := d.maps.Shares.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("datapath: share of a workload that is gone: %w", err)
		}
	}
	return nil
}

// eachEntry calls f for each entry of a hash map, which may change meanwhile.
func eachEntry[K, V any](m *ebpf.Map, f func(K, *V) error) error {
	keys := make([]K, batch)
	values := make([]V, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if errors.Is(err, unix.ENOSPC) {
			// One bucket holds more than fits: none of it was given.
			keys, values = make([]K, 2*len(keys)), make([]V, 2*len(values))
			continue
		}
		if err != nil && !end {
			return fmt.Errorf("datapath: %s: %w", m, err)
		}
		for i := range n {
			if err := f(keys[i], &values[i]); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

func entriesBatched(m *ebpf.Map) (n uint64, err error) {
	switch m.KeySize() {
	case 8:
		err = eachEntry(m, func(uint64, *bpf.SallyportSpShare) error { n++; return nil })
	default:
		err = eachEntry(m, func(bpf.SallyportSpRefusalKey, *bpf.SallyportSpRefusal) error { n++; return nil })
	}
	return n, err
}

// clock turns CLOCK_MONOTONIC, which the programs read, into wall time.
type clock struct {
	wallNow time.Time
	mono    int64
}

func newClock() (clock, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return clock{}, fmt.Errorf("datapath: clock: %w", err)
	}
	return clock{time.Now(), ts.Nano()}, nil
}

func (c clock) wall(ns uint64) time.Time {
	return c.wallNow.Add(time.Duration(int64(ns) - c.mono))
}
