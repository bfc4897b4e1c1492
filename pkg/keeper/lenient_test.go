package keeper

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLenientPlaces: a broken file says where the gate is as far as it is
// readable, and never anywhere that a good one could not say.
func TestLenientPlaces(t *testing.T) {
	usual := Places{RuntimeDir: "/run/sallyport", BPFDir: "/sys/fs/bpf/sallyport", Table: "sallyport", Slice: slicePath("mcp.slice", booted())}
	for _, test := range []struct {
		name, text string
		want       func(*Places)
	}{
		{"nothing but an error", "{{{", nil},
		{"all places before an error", "slice: own.slice # ours\nnft_table: \"own_table\"\nbpf_dir: /sys/fs/bpf/own/\nruntime_dir: '/run/own'\nrules: [\n", func(p *Places) {
			*p = Places{RuntimeDir: "/run/own", BPFDir: "/sys/fs/bpf/own", Table: "own_table", Slice: slicePath("own.slice", booted())}
		}},
		{"an error before them", "versoin: 1\nslice: own.slice\r\n", func(p *Places) { p.Slice = slicePath("own.slice", booted()) }},
		{"not at the top", "x:\n  slice: own.slice\n  - nft_table: t\n[", nil},
		{"what none of them can be", "slice: ../etc\nnft_table: a-b\nbpf_dir: relative\nruntime_dir: $HOME\n[", nil},
	} {
		path := filepath.Join(t.TempDir(), "sallyport.yaml")
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		want := usual
		if test.want != nil {
			test.want(&want)
		}
		got, err := LenientPlaces(path)
		if got.RuntimeDir != want.RuntimeDir || got.BPFDir != want.BPFDir || got.Table != want.Table || got.Slice != want.Slice || err == nil {
			t.Errorf("%s: %+v, %v, want %+v and an error", test.name, got, err, want)
		}
	}
	if got, err := LenientPlaces(""); err != nil || got.Table != usual.Table {
		t.Errorf("no file: %+v, %v", got, err)
	}
}
