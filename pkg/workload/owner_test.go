package workload

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

const (
	idA = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	idB = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
)

func TestOwnerOf(t *testing.T) {
	tests := []struct {
		path string
		want Owner
	}{
		{"/", Owner{}},
		{"/plain/below", Owner{}},
		{"/system.slice/mcp-github.service", Owner{Unit: "mcp-github.service"}},
		{"/system.slice/mcp-github.service/init/deep", Owner{Unit: "mcp-github.service"}},
		{`/system.slice/mcp\x2dgithub.service`, Owner{Unit: `mcp\x2dgithub.service`}},
		{"/system.slice/system-mcp.slice/mcp@one.service", Owner{Unit: "mcp@one.service"}},
		{"/mcp.slice", Owner{Unit: "mcp.slice"}},
		{"/mcp.slice/mcp-a.slice/plain", Owner{Unit: "mcp-a.slice"}},
		{"/system.slice/_cpu.service", Owner{Unit: "cpu.service"}},
		{"/init.scope", Owner{Unit: "init.scope"}},
		{"/user.slice/user-1000.slice/session-3.scope", Owner{Unit: "session-3.scope"}},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service", Owner{Unit: "user@1000.service"}},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice", Owner{Unit: "user@1000.service"}},
		{"/machine.slice/machine-web.scope", Owner{Unit: "machine-web.scope"}},
		// What a service with Delegate= can make below itself.
		{"/mcp.slice/mcp-a.service/mcp-b.service", Owner{Unit: "mcp-a.service"}},
		{"/mcp.slice/mcp-a.service/docker-" + idA + ".scope", Owner{Unit: "mcp-a.service"}},
		{"/mcp.slice/mcp-a.service/mcp-b.slice", Owner{Unit: "mcp-a.service"}},
		{"/system.slice/docker.service", Owner{Unit: "docker.service"}},
		{"/system.slice/.service", Owner{Unit: "system.slice"}},
		{"/docker/" + idA, Owner{Container: idA}},
		{"/docker/" + idA + "/init.scope", Owner{Container: idA}},
		{"/system.slice/docker-" + idA + ".scope", Owner{Container: idA}},
		{"/mcp.slice/docker-" + idA + ".scope/sub", Owner{Container: idA}},
		{"/docker/" + idA + "/docker/" + idB, Owner{Container: idA}},
		{"/machine.slice/libpod-" + idA + ".scope/container", Owner{Container: idA}},
		{"/machine.slice/libpod-conmon-" + idA + ".scope", Owner{Unit: "libpod-conmon-" + idA + ".scope"}},
		{"/machine.slice/libpod-payload-" + idA + ".scope", Owner{Container: idA}},
		{"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + idA + ".scope", Owner{Unit: "user@1000.service"}},
		{"/libpod_parent/libpod-" + idA, Owner{Container: idA}},
		{"/system.slice/nerdctl-" + idA + ".scope", Owner{Container: idA}},
		{"/default/" + idA, Owner{Container: idA}},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podb1_2.slice/cri-containerd-" + idA + ".scope", Owner{Container: idA}},
		{"/kubepods.slice/kubepods-podb1.slice/crio-" + idA + ".scope", Owner{Container: idA}},
		{"/kubepods.slice/kubepods-podb1.slice/crio-conmon-" + idA + ".scope", Owner{Unit: "crio-conmon-" + idA + ".scope"}},
		{"/kubepods/burstable/podb1a2-3/" + idA, Owner{Container: idA}},
		{"/kubepods/besteffort/podb1/crio-" + idA, Owner{Container: idA}},
		{"/system.slice/containerd.service/kubepods-besteffort-podb1.slice:cri-containerd:" + idA, Owner{Container: idA}},
		{"/system.slice/docker-" + idA[:63] + ".scope", Owner{Unit: "docker-" + idA[:63] + ".scope"}},
		{"/system.slice/docker-" + idA[:63] + "g.scope", Owner{Unit: "docker-" + idA[:63] + "g.scope"}},
		{"/process_api/" + idA[:32], Owner{}},
		{"/docker/" + idA[:32], Owner{Container: idA[:32]}},
	}
	for _, tt := range tests {
		if got := OwnerOf(tt.path); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.path, got, tt.want)
		}
	}
}

func TestUnescapeUnit(t *testing.T) {
	for in, want := range map[string]string{
		`a\x2db.service`: "a-b.service", `a\x2`: `a\x2`, `a\xzz`: `a\xzz`, "plain": "plain", `\x41\x6A`: "Aj",
	} {
		if got := UnescapeUnit(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestLabel(t *testing.T) {
	for in, want := range map[string]string{
		"mcp-github.service": "mcp-github.service", "": "unnamed", "  ": "unnamed", "a\nb\x00c\x1b[31m": "a_b_c_[31m",
		"\xff\xfe": "__", "grün": "grün", "a b": "a b", "a\u202eb": "a_b", "\ufffd": "_",
	} {
		if got := Label(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	long := strings.Repeat("x", 1000)
	if Label(long+"a") == Label(long+"b") {
		t.Error("two long names became one")
	}
}

func FuzzLabel(f *testing.F) {
	f.Add("mcp")
	f.Add(strings.Repeat("\xff", 300))
	f.Add(strings.Repeat("ü", 100))
	f.Fuzz(func(t *testing.T, s string) {
		l := Label(s)
		if l == "" || len(l) > MaxLabel || !utf8.ValidString(l) {
			t.Fatalf("%q", l)
		}
		for _, r := range l {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q has %q", l, r)
			}
		}
	})
}

func FuzzOwnerOf(f *testing.F) {
	f.Add("/system.slice/docker-" + idA + ".scope")
	f.Add(`//_.service/:` + idA)
	f.Fuzz(func(t *testing.T, s string) {
		o := OwnerOf(s)
		if o.Unit != "" && o.Container != "" {
			t.Errorf("%+v", o)
		}
		UnescapeUnit(s)
	})
}

func BenchmarkOwnerOf(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		OwnerOf("/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service")
	}
}
