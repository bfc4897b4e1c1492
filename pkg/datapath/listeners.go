package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"sallyport/bpf"
)

// MarkListener marks a TCP listener or a resolver's UDP socket as ours; without
// the mark nothing is sent to it. The mark lasts as long as the socket. A TCP
// listener must not be an MPTCP one, on which a mark is not found: Go makes those
// unless net.ListenConfig.SetMultipathTCP(false) is called. Its cgroup at the time
// it was made must be below Options.KeeperCgroup.
func (d *Datapath) MarkListener(fd uintptr) error {
	if d.absent {
		return nil
	}
	if err := d.maps.Marks.Update(int32(fd), uint32(1), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("datapath: mark of a listener: %w", err)
	}
	return nil
}

// SetListeners says where flows of the network namespace with this cookie go.
// TCP4, DNS4 and Probe are IPv4 addresses, TCP6 and DNS6 IPv6 ones.
func (d *Datapath) SetListeners(netns uint64, l Listeners) error {
	for _, e := range []struct {
		name string
		addr netip.AddrPort
		ipv4 bool
	}{
		{"TCP4", l.TCP4, true}, {"DNS4", l.DNS4, true}, {"Probe", l.Probe, true},
		{"TCP6", l.TCP6, false}, {"DNS6", l.DNS6, false},
	} {
		// Egress passes redirected packets on lo alone.
		if e.addr.IsValid() && (!e.addr.Addr().IsLoopback() || e.addr.Addr().Is4() != e.ipv4 || e.addr.Port() == 0) {
			return fmt.Errorf("datapath: listener %s: %s is not a loopback address of its family with a port", e.name, e.addr)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.absent {
		d.listeners[netns] = l
		return nil
	}
	if err := d.maps.Listeners.Update(netns, l.value(), ebpf.UpdateAny); err != nil {
		return fmt.Errorf("datapath: listeners of namespace %d: %w", netns, err)
	}
	d.listeners[netns] = l
	return nil
}

// RemoveListeners makes everything in the network namespace be refused.
func (d *Datapath) RemoveListeners(netns uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.absent {
		if err := d.maps.Listeners.Delete(netns); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("datapath: listeners of namespace %d: %w", netns, err)
		}
	}
	delete(d.listeners, netns)
	return nil
}

// ListenerNamespaces gives the cookies of the network namespaces that have
// listeners, those that an earlier process had set among them.
func (d *Datapath) ListenerNamespaces() []uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.listeners))
}

func (l Listeners) value() bpf.SallyportSpListeners {
	return bpf.SallyportSpListeners{
		Tcp4:  endpoint(l.TCP4),
		Tcp6:  endpoint(l.TCP6),
		Dns4:  endpoint(l.DNS4),
		Dns6:  endpoint(l.DNS6),
		Probe: endpoint(l.Probe),
	}
}

// SetOwnAddresses replaces the addresses, besides the listeners, that no workload
// may name: metrics, admin. They hold in every namespace. An unspecified address
// stands for the loopback addresses 127.0.0.1 and ::1; what else it covers must be
// listed.
func (d *Datapath) SetOwnAddresses(addrs []netip.AddrPort) error {
	if d.absent {
		return nil
	}
	want := make(map[bpf.SallyportSpEndpoint]bool)
	for _, a := range addrs {
		if !a.IsValid() || a.Port() == 0 {
			return fmt.Errorf("datapath: own address %s has no port", a)
		}
		if a.Addr().IsUnspecified() {
			want[endpoint(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port()))] = true
			want[endpoint(netip.AddrPortFrom(netip.IPv6Loopback(), a.Port()))] = true
			continue
		}
		want[endpoint(a)] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := replaceSet(d.maps.Own, want); err != nil {
		return fmt.Errorf("datapath: own addresses: %w", err)
	}
	d.own = len(want)
	return nil
}

// SetInbound replaces the ports on which workloads may answer other hosts.
// Connections that were accepted before keep what held then; the guard ends them.
func (d *Datapath) SetInbound(ports []InboundPort) error {
	if d.absent {
		return nil
	}
	want := make(map[bpf.SallyportSpInboundKey]bool)
	for _, p := range ports {
		if p.Port == 0 {
			return errors.New("datapath: inbound port 0")
		}
		want[bpf.SallyportSpInboundKey{Cgroup: p.Cgroup, Port: p.Port}] = true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := replaceSet(d.maps.Inbound, want); err != nil {
		return fmt.Errorf("datapath: inbound ports: %w", err)
	}
	d.inbound = len(want)
	return nil
}

// SetProbe says which cgroup is the self-probe's. The zero Probe means none.
func (d *Datapath) SetProbe(p Probe) error {
	if d.absent {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.config.ProbeCgroup = p.Cgroup
	d.config.Probe = endpoint(p.Blocked)
	return d.writeConfig()
}

// replaceSet makes the keys of a map those of the set.
func replaceSet[K comparable](m *ebpf.Map, want map[K]bool) error {
	var key K
	var value uint8
	var gone []K
	have := make(map[K]bool)
	it := m.Iterate()
	for it.Next(&key, &value) {
		have[key] = true
		if !want[key] {
			gone = append(gone, key)
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	for _, key := range gone {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	for key := range want {
		if !have[key] {
			if err := m.Update(key, uint8(1), ebpf.UpdateAny); err != nil {
				return err
			}
		}
	}
	return nil
}
