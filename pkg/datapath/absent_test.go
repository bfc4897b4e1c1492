package datapath

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// TestAbsent: without programs everything is remembered and nothing is done.
func TestAbsent(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "a")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	d := Absent(Options{CgroupRoot: root, PinDir: filepath.Join(root, "pins")})
	if err := d.AttachSlice(dir); err != nil {
		t.Fatal(err)
	}
	if len(d.Tagged()) != 1 || !d.Absent() {
		t.Errorf("tagged: %v", d.Tagged())
	}
	l := netip.MustParseAddrPort("127.0.0.1:1")
	if err := d.SetListeners(7, Listeners{TCP4: l}); err != nil || len(d.ListenerNamespaces()) != 1 {
		t.Error(d.ListenerNamespaces(), err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.Events(ctx, nil); err != nil {
		t.Error(err)
	}
	for name, f := range map[string]func() error{
		"mark": func() error { return d.MarkListener(0) }, "own": func() error { return d.SetOwnAddresses([]netip.AddrPort{l}) },
		"direct": func() error { return d.SetDirect([]DirectRule{{}}) }, "inbound": func() error { return d.SetInbound([]InboundPort{{}}) },
		"probe": func() error { return d.SetProbe(Probe{}) }, "sweep": d.Sweep, "repair": d.Repair,
		"remove": func() error { return d.RemoveListeners(7) }, "detach": func() error { return d.Detach(dir) }, "close": d.Close,
	} {
		if err := f(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if problems, err := d.Verify(); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	flows, err1 := d.Flows()
	resources, err2 := d.Resources()
	if len(flows)+len(resources) > 0 || err1 != nil || err2 != nil {
		t.Error(flows, resources, err1, err2)
	}
	if _, err := os.Stat(filepath.Join(root, "pins")); !os.IsNotExist(err) {
		t.Error("pins were made")
	}
}
