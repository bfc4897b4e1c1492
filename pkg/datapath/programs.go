package datapath

import (
	"errors"

	"github.com/cilium/ebpf"

	"sallyport/bpf"
)

// The programs, in two halves that cost the verifier about the same: it does one
// program at a time for each caller, so two callers use two processors.
type (
	firstHalf struct {
		Connect4        *ebpf.Program `ebpf:"connect4"`
		Connect6        *ebpf.Program `ebpf:"connect6"`
		ForeignConnect4 *ebpf.Program `ebpf:"foreign_connect4"`
		ForeignConnect6 *ebpf.Program `ebpf:"foreign_connect6"`
		ForeignSendmsg4 *ebpf.Program `ebpf:"foreign_sendmsg4"`
		ForeignSendmsg6 *ebpf.Program `ebpf:"foreign_sendmsg6"`
	}
	secondHalf struct {
		Egress        *ebpf.Program `ebpf:"egress"`
		Getpeername4  *ebpf.Program `ebpf:"getpeername4"`
		Getpeername6  *ebpf.Program `ebpf:"getpeername6"`
		Recvmsg4      *ebpf.Program `ebpf:"recvmsg4"`
		Recvmsg6      *ebpf.Program `ebpf:"recvmsg6"`
		Sendmsg4      *ebpf.Program `ebpf:"sendmsg4"`
		Sendmsg6      *ebpf.Program `ebpf:"sendmsg6"`
		SetOption     *ebpf.Program `ebpf:"set_option"`
		SockCreate    *ebpf.Program `ebpf:"sock_create"`
		SockOps       *ebpf.Program `ebpf:"sock_ops"`
		SockOpsAccept *ebpf.Program `ebpf:"sock_ops_accept"`
		SockRelease   *ebpf.Program `ebpf:"sock_release"`
	}
)

// loadPrograms brings the programs into the kernel, over the maps of d.
func (d *Datapath) loadPrograms(spec *ebpf.CollectionSpec) error {
	maps := make(map[string]*ebpf.Map)
	for _, n := range d.allMaps() {
		maps[n.name] = n.m
	}
	load := func(half any) error {
		return spec.Copy().LoadAndAssign(half, &ebpf.CollectionOptions{MapReplacements: maps})
	}
	var first firstHalf
	var second secondHalf
	done := make(chan error, 1)
	go func() { done <- load(&first) }()
	err := load(&second)
	err = errors.Join(<-done, err)
	d.progs = bpf.SallyportPrograms{
		Connect4: first.Connect4, Connect6: first.Connect6,
		ForeignConnect4: first.ForeignConnect4, ForeignConnect6: first.ForeignConnect6,
		ForeignSendmsg4: first.ForeignSendmsg4, ForeignSendmsg6: first.ForeignSendmsg6,
		Egress: second.Egress, Getpeername4: second.Getpeername4, Getpeername6: second.Getpeername6,
		Recvmsg4: second.Recvmsg4, Recvmsg6: second.Recvmsg6, Sendmsg4: second.Sendmsg4, Sendmsg6: second.Sendmsg6,
		SetOption: second.SetOption, SockCreate: second.SockCreate, SockOps: second.SockOps, SockOpsAccept: second.SockOpsAccept, SockRelease: second.SockRelease,
	}
	if err != nil {
		// The half that succeeded must not stay.
		return errors.Join(err, d.progs.Close())
	}
	return nil
}
