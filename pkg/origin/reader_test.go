package origin

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
)

// The offsets of struct sp_flow and struct sp_asker_key in bpf/types.h. That the
// kernel fills them so is tested with real connections in package datapath.
func TestLayout(t *testing.T) {
	var r record
	var k askerKey
	for _, tt := range []struct {
		name      string
		got, want uintptr
	}{
		{"opened", unsafe.Offsetof(r.opened), 32},
		{"src", unsafe.Offsetof(r.src), 40},
		{"dst", unsafe.Offsetof(r.dst), 56},
		{"sport", unsafe.Offsetof(r.sport), 72},
		{"dport", unsafe.Offsetof(r.dport), 74},
		{"pid", unsafe.Offsetof(r.pid), 80},
		{"uid", unsafe.Offsetof(r.uid), 84},
		{"sent", unsafe.Offsetof(r.sent), 96},
		{"size of sp_flow", unsafe.Sizeof(r), 128},
		{"src of the key", unsafe.Offsetof(k.src), 8},
		{"port of the key", unsafe.Offsetof(k.port), 24},
		{"size of sp_asker_key", unsafe.Sizeof(k), 32},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, tt.got, tt.want)
		}
	}
}

func TestFlowOfRecord(t *testing.T) {
	r := record{
		cookie: 1, cgroup: 2, workload: 3, netns: 4,
		src: netip.MustParseAddr("::ffff:127.0.0.1").As16(), sport: 40000,
		dst: netip.MustParseAddr("2001:db8::1").As16(), dport: 443,
		pid: 5, uid: 6,
	}
	want := Flow{
		ID: 1, Cgroup: 2, Workload: 3, Netns: 4,
		Src: netip.MustParseAddrPort("127.0.0.1:40000"),
		Dst: netip.MustParseAddrPort("[2001:db8::1]:443"),
		PID: 5, UID: 6,
	}
	if diff := cmp.Diff(want, r.flow(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("flow (-want +got):\n%s", diff)
	}
}

// What is no map, or a connection that is closed, is an error and never a flow.
func TestErrors(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	reader := NewReader(null, null)
	if f, err := reader.Flow(l.(*net.TCPListener)); err == nil || errors.Is(err, ErrNoFlow) || f != (Flow{}) {
		t.Errorf("not a map: %+v, %v", f, err)
	}
	if f, err := reader.Asker(1, netip.MustParseAddrPort("127.0.0.1:1")); err == nil || errors.Is(err, ErrNoFlow) || f != (Flow{}) {
		t.Errorf("not a map: %+v, %v", f, err)
	}
	l.Close()
	if f, err := reader.Flow(l.(*net.TCPListener)); !errors.Is(err, net.ErrClosed) || f != (Flow{}) {
		t.Errorf("closed connection: %+v, %v", f, err)
	}
}
