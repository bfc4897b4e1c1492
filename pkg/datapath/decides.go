package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"sallyport/bpf"
)

// Decides reports whether these programs decide on what the socket behind a
// descriptor of this process does: sock_create saw it being made below a tagged
// cgroup, or it is one of our listeners. Accepted sockets inherit it.
func (d *Datapath) Decides(fd int) (bool, error) {
	var mark uint32
	switch err := d.maps.Marks.Lookup(int32(fd), &mark); {
	case err == nil:
		return true, nil
	case !errors.Is(err, ebpf.ErrKeyNotExist):
		return false, fmt.Errorf("datapath: mark of a socket: %w", err)
	}
	var storage bpf.SallyportSpSock
	err := d.maps.Sockets.Lookup(int32(fd), &storage)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("datapath: storage of a socket: %w", err)
	}
	return true, nil
}
