package netns

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// entry is a conntrack entry as the kernel sends it, whose original direction has
// these ends.
func entry(t Tracked) []byte {
	b := []byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}
	orig := tuple(unix.IPPROTO_TCP, t.Src, t.Dst)
	orig.Type = ctaTupleOrig | nestedAttr
	b = append(b, orig.Serialize()...)
	b = append(b, tuple(unix.IPPROTO_TCP, t.Dst, t.Src).Serialize()...)
	b = append(b, nl.NewRtAttr(ctaStatus, binary.BigEndian.AppendUint32(nil, t.Status)).Serialize()...)
	b = append(b, nl.NewRtAttr(ctaZone, binary.BigEndian.AppendUint16(nil, t.Zone)).Serialize()...)
	return append(b, nl.NewRtAttr(ctaID, binary.BigEndian.AppendUint32(nil, t.ID)).Serialize()...)
}

var entries = []Tracked{
	{Src: netip.MustParseAddrPort("192.0.2.1:40000"), Dst: netip.MustParseAddrPort("198.51.100.7:443"), Zone: 77, ID: 0xdeadbeef, Status: StatusDNAT | 2},
	{Src: netip.MustParseAddrPort("[2001:db8::1]:1"), Dst: netip.MustParseAddrPort("[2001:db8::2]:65535"), ID: 1},
}

func TestParseTracked(t *testing.T) {
	for _, want := range entries {
		if got, err := parseTracked(entry(want)); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	for name, b := range map[string][]byte{"nothing": nil, "short": {2, 0, 0}, "no attributes": {2, 0, 0, 0}, "half an entry": entry(entries[0])[:30]} {
		if got, err := parseTracked(b); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// FuzzParseTracked: whatever the bytes are, it is an error or an entry with both
// ends, of one family.
func FuzzParseTracked(f *testing.F) {
	for _, e := range entries {
		f.Add(entry(e))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseTracked(b)
		if err == nil && (!got.Src.IsValid() || !got.Dst.IsValid() || got.Src.Addr().Is4() != got.Dst.Addr().Is4()) {
			t.Errorf("%+v", got)
		}
	})
}
