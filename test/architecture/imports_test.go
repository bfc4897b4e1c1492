// Package architecture turns the rules of the design into tests: who may
// import what, and what the linker must be able to drop.
package architecture

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A listedPackage is what `go list -json` tells of one package of ours.
type listedPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

const module = "sallyport/"

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "sallyport/...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var pkgs []listedPackage
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listedPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list output: %v", err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < 10 {
		t.Fatalf("go list named %d packages; the test looks at the wrong place", len(pkgs))
	}
	return pkgs
}

// TestOwnersOfLibraries: a library that talks to the kernel or a format has one
// owner, so that a change of it stays in one folder.
func TestOwnersOfLibraries(t *testing.T) {
	owners := map[string][]string{
		"github.com/cilium/ebpf":              {"sallyport/bpf", "sallyport/pkg/datapath"},
		"github.com/google/nftables":          {"sallyport/pkg/guard"},
		"github.com/prometheus/client_golang": {"sallyport/pkg/metrics"},
		"go.yaml.in/yaml/v4":                  {"sallyport/pkg/config"},
		"github.com/spf13/cobra":              {"sallyport/cmd/sallyport"},
		"github.com/valkey-io/valkey-go":      {"sallyport/pkg/stage/ratelimit"},
		"cel.dev/cel-go":                      {"sallyport/pkg/policy/condition"},
		// Of go-systemd's, notices and activation are read where they arise.
		"github.com/coreos/go-systemd/v22/dbus": {"sallyport/pkg/systemd"},
		"github.com/godbus/dbus":                {"sallyport/pkg/systemd", "sallyport/pkg/systemd/systemdtest"},
	}
	for _, p := range listPackages(t) {
		for _, imp := range p.Imports {
			for lib, allowed := range owners {
				if (imp == lib || strings.HasPrefix(imp, lib+"/")) && !slices.Contains(allowed, p.ImportPath) {
					t.Errorf("%s imports %s; only %s may", p.ImportPath, imp, strings.Join(allowed, ", "))
				}
			}
		}
	}
}

// TestForbiddenImports: each line is a rule of the design with its reason.
func TestForbiddenImports(t *testing.T) {
	rules := []struct {
		who, what, why string
	}{
		{"pkg/policy", "net/http", "policy is pure: no I/O"},
		{"pkg/policy", "os", "policy is pure: no I/O"},
		{"pkg/policy", "time", "policy is pure: no clock"},
		{"pkg/policy", "go.uber.org/zap", "policy is pure: no logger"},
		{"pkg/config", module + "pkg/policy", "policy is compiled from config, never the reverse"},
		{"pkg/keeper", module + "pkg/http1", "the keeper parses nothing that a workload or upstream wrote"},
		{"pkg/keeper", module + "pkg/http2", "the keeper parses nothing that a workload or upstream wrote"},
		{"pkg/keeper", module + "pkg/websocket", "the keeper parses nothing that a workload or upstream wrote"},
		{"pkg/keeper", module + "pkg/sniff", "the keeper parses nothing that a workload or upstream wrote"},
		{"pkg/keeper", module + "pkg/resolver", "the keeper parses nothing that a workload or upstream wrote"},
		{"pkg/keeper", module + "pkg/proxy", "the keeper parses nothing that a workload or upstream wrote"},
		{"pkg/keeper", module + "pkg/exchange", "the keeper parses nothing that a workload or upstream wrote"},
		{"pkg/keeper", module + "pkg/upstream", "the keeper contacts nobody"},
		{"pkg/keeper", module + "pkg/agent", "the worker is another process"},
		{"pkg/agent", module + "pkg/guard", "the worker has no capability to use it"},
		{"pkg/proxy", module + "pkg/datapath", "origin is the only way to a flow"},
		{"pkg", module + "cmd", "packages do not know commands"},
		{"pkg", "text/template", "it stops the linker from dropping unused methods (golang/go#72895)"},
		{"pkg", "html/template", "it stops the linker from dropping unused methods (golang/go#72895)"},
		{"cmd", "text/template", "it stops the linker from dropping unused methods (golang/go#72895)"},
	}
	pkgs := listPackages(t)
	for _, r := range rules {
		prefix := module + r.who
		for _, p := range pkgs {
			if p.ImportPath != prefix && !strings.HasPrefix(p.ImportPath, prefix+"/") {
				continue
			}
			for _, imp := range p.Imports {
				if imp == r.what {
					t.Errorf("%s imports %s: %s", p.ImportPath, imp, r.why)
				}
			}
		}
	}
}

// TestNoProfiler: without the tag profile nothing serves profiles, not even by
// what net/http/pprof does before main.
func TestNoProfiler(t *testing.T) {
	for _, p := range listPackages(t) {
		if p.ImportPath == module+"cmd/sallyport" {
			if slices.Contains(p.Deps, "net/http/pprof") {
				t.Error("net/http/pprof is linked")
			}
			return
		}
	}
	t.Fatal("no cmd/sallyport")
}

// TestOnlyAgentKnowsAll: a package that knows more than its neighbours grows
// into the place where everything ends up.
func TestOnlyAgentKnowsAll(t *testing.T) {
	// The most has proxy, by which every protocol passes: each codec is one, and the targets of upstreams.
	const most = 15
	for _, p := range listPackages(t) {
		n := 0
		for _, imp := range p.Imports {
			if strings.HasPrefix(imp, module+"pkg/") {
				n++
			}
		}
		switch p.ImportPath {
		case module + "pkg/agent", module + "pkg/keeper", module + "cmd/sallyport":
			continue
		}
		if strings.HasPrefix(p.ImportPath, module+"test/") {
			continue
		}
		if n > most {
			t.Errorf("%s imports %d packages of ours, most is %d", p.ImportPath, n, most)
		}
	}
}
