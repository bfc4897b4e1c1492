package systemd

import (
	"slices"
	"testing"
)

// TestListens: on what a socket unit listens, and which of it only this host
// reaches.
func TestListens(t *testing.T) {
	m, server := connect(t)
	type pair struct{ Kind, Address string }
	server.Put("web.service", map[string]any{"TriggeredBy": []string{"web.socket"}})
	server.Put("web.socket", map[string]any{"Listen": []pair{
		{"Stream", "/run/web.sock"}, {"Stream", "@web"}, {"FIFO", "/run/web"},
		{"Stream", "[::]:80"}, {"Datagram", "127.0.0.1:53"}, {"SequentialPacket", "vsock:2:1"}, {"Netlink", "route 1"},
	}})
	u, err := m.Unit(soon(t), "web.service")
	if err != nil || !slices.Equal(u.TriggeredBy, []string{"web.socket"}) {
		t.Fatalf("%+v, %v", u, err)
	}
	all, err := m.Listens(soon(t), "web.socket")
	if err != nil {
		t.Fatal(err)
	}
	var outside []string
	for _, l := range all {
		if !l.Unix() {
			outside = append(outside, l.String())
		}
	}
	want := []string{"ListenStream=[::]:80", "ListenDatagram=127.0.0.1:53", "ListenSequentialPacket=vsock:2:1", "ListenNetlink=route 1"}
	if len(all) != 7 || !slices.Equal(outside, want) {
		t.Errorf("%v, of them %q, want %q", all, outside, want)
	}
	if l, err := m.Listens(soon(t), "web.service"); err == nil {
		t.Errorf("of a service: %v", l)
	}
}
