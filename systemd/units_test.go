package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const unitDir = "/usr/lib/systemd/system"

// worker is the unit that reads what strangers wrote.
const worker = "sallyport.service"

func units(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"*.service", "*.slice"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	return names
}

// image makes a root directory with systemd's own units, ours, enabled, and a
// program that each of them can start.
func image(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{unitDir, "/etc/systemd/system/multi-user.target.wants", "/usr/bin"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", "-a", unitDir+"/.", filepath.Join(root, unitDir)).CombinedOutput(); err != nil {
		t.Fatalf("systemd's units: %v: %s", err, out)
	}
	write := func(path, content string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"sallyport", "kill", "sleep"} {
		write("/usr/bin/"+program, "#!/bin/sh\n", 0o755)
	}
	write("/etc/passwd", "root:x:0:0::/:/bin/sh\nsallyport:x:990:990::/:/bin/false\n", 0o644)
	write("/etc/group", "root:x:0:\nsallyport:x:990:\n", 0o644)
	for _, name := range units(t) {
		content, err := Files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		write(unitDir+"/"+name, string(content), 0o644)
	}
	// Who runs behind the gate, and who must not come before it is shut.
	write(unitDir+"/tagged.service", "[Service]\nExecStart=/usr/bin/sleep 1\nSlice=mcp.slice\n", 0o644)
	write(unitDir+"/docker.service", "[Service]\nExecStart=/usr/bin/sleep 1\n", 0o644)
	write(unitDir+"/nftables.service", "[Unit]\nDefaultDependencies=no\nWants=network-pre.target\nBefore=network-pre.target shutdown.target\nConflicts=shutdown.target\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/sleep 1\n", 0o644)
	for _, name := range append(units(t), "tagged.service", "docker.service", "nftables.service") {
		if strings.HasSuffix(name, ".slice") {
			continue
		}
		if err := os.Symlink(unitDir+"/"+name, filepath.Join(root, "/etc/systemd/system/multi-user.target.wants", name)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestUnits: systemd reads the units without a word, and a boot with all of them
// has no cycle in its order.
func TestUnits(t *testing.T) {
	root := image(t)
	verify := func() string {
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--root="+root, "multi-user.target", "tagged.service", "mcp.slice").CombinedOutput()
		if err != nil {
			t.Logf("systemd-analyze verify: %v", err)
		}
		var about []string
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "sallyport") || strings.Contains(line, "mcp.slice") || strings.Contains(line, "cycle") || strings.Contains(line, "tagged") {
				about = append(about, line)
			}
		}
		return strings.Join(about, "")
	}
	if said := verify(); said != "" {
		t.Errorf("systemd-analyze verify:\n%s", said)
	}
	// With the default dependencies the lock would wait for the slices, which wait
	// for it: the check must see that.
	lock := filepath.Join(root, unitDir, "sallyport-lock.service")
	content, err := os.ReadFile(lock)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(lock, []byte(strings.Replace(string(content), "DefaultDependencies=no", "", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if said := verify(); !strings.Contains(said, "cycle") {
		t.Errorf("a cycle was not noticed: %q", said)
	}
}

// TestExposure: what systemd-analyze thinks of the worker, in tenths, is 25 at
// most.
func TestExposure(t *testing.T) {
	root := image(t)
	analyze := func() ([]byte, error) {
		return exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=25", filepath.Join(root, unitDir, worker)).CombinedOutput()
	}
	out, err := analyze()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	t.Log(lines[len(lines)-1])
	if err := os.WriteFile(filepath.Join(root, unitDir, worker), []byte("[Service]\nExecStart=/usr/bin/sallyport run --part worker\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := analyze(); err == nil {
		t.Errorf("a unit without any protection passes:\n%s", out)
	}
}

// TestNoCapability: of the worker, and none of the keeper's without a reason
// above it.
func TestNoCapability(t *testing.T) {
	for _, name := range units(t) {
		content, err := Files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(content), "\n")
		at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "CapabilityBoundingSet=") })
		switch {
		case name == worker && (at < 0 || lines[at] != "CapabilityBoundingSet="):
			t.Errorf("%s has capabilities", name)
		case name == worker:
		case at >= 0:
			for i, l := range lines {
				if strings.HasPrefix(l, "CapabilityBoundingSet=") && !strings.HasPrefix(lines[i-1], "# ") {
					t.Errorf("%s: %s without a reason", name, l)
				}
			}
		}
	}
}
