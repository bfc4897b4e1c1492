package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// run runs a command in the repository's root and gives what it said.
func run(t *testing.T, env []string, argv ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// pack makes the packages of a version around a binary and gives their directory.
func pack(t *testing.T, version, binary string) string {
	t.Helper()
	if _, err := os.Stat("../bin/nfpm"); err != nil {
		t.Fatalf("%v: make bin/nfpm builds it", err)
	}
	dist := filepath.Join(t.TempDir(), "dist")
	if out, err := run(t, nil, "scripts/packages", version, dist, binary); err != nil {
		t.Fatalf("packages: %v: %s", err, out)
	}
	return dist
}

// one gives the only file that a pattern matches.
func one(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %q, %v", pattern, found, err)
	}
	return found[0]
}

// An rpmHost is a root directory with a shell, in which programs that scriptlets
// call only write down that they were called.
type rpmHost struct {
	t    *testing.T
	root string
}

func newRPMHost(t *testing.T) *rpmHost {
	t.Helper()
	h := &rpmHost{t, t.TempDir()}
	for _, dir := range []string{"usr/bin", "bin", "etc/systemd/system/multi-user.target.wants", "run/systemd/system", "tmp", "var/tmp", "var/lib/rpm", "dev"} {
		if err := os.MkdirAll(filepath.Join(h.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := `set -e
for p in sh rm; do
  cp -L "$(command -v $p)" "$0/bin/$p"
  ldd "$0/bin/$p" | grep -o '/[^ ]*' | while read -r lib; do mkdir -p "$0$(dirname "$lib")"; cp -Ln "$lib" "$0$lib" || true; done
done
rpm --root "$0" --initdb`
	if out, err := exec.Command("sh", "-c", script, h.root).CombinedOutput(); err != nil {
		t.Fatalf("root directory: %v: %s", err, out)
	}
	for _, program := range []string{"systemctl", "systemd-sysusers", "systemd-tmpfiles", "getent", "userdel", "groupdel"} {
		h.write("usr/bin/"+program, standIn)
	}
	return h
}

// standIn writes down how it was called; sallyport itself refuses while there is a
// file /busy.
const standIn = `#!/bin/sh
echo "${0##*/} $*" >>/calls
if [ "${0##*/}" = sallyport ] && [ -e /busy ]; then echo "something runs behind the gate" >&2; exit 1; fi
`

func (h *rpmHost) write(path, content string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.root, path), []byte(content), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// rpm runs rpm(8) on the root directory and gives the calls of its scriptlets.
func (h *rpmHost) rpm(args ...string) (calls []string, out string, err error) {
	h.t.Helper()
	os.Remove(filepath.Join(h.root, "calls"))
	argv := append([]string{"rpm", "--root", h.root, "--nodeps", "--noverify"}, args...)
	if args[0] == "-e" {
		argv = append([]string{"rpm", "--root", h.root, "--nodeps"}, args...)
	}
	out, err = run(h.t, []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin"}, argv...)
	data, _ := os.ReadFile(filepath.Join(h.root, "calls"))
	if len(data) > 0 {
		calls = strings.Split(strings.TrimSpace(string(data)), "\n")
	}
	return calls, out, err
}

func (h *rpmHost) has(path string) bool {
	_, err := os.Lstat(filepath.Join(h.root, path))
	return err == nil
}

// TestRPM: the scriptlets of the .rpm, run by rpm: an installation enables and
// starts, an upgrade restarts keeper and worker and leaves the lock alone, a removal
// is refused while sallyport refuses, and then takes everything but a configuration
// that somebody has edited.
func TestRPM(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("rpm --root needs root: sudo make test")
	}
	binary := filepath.Join(t.TempDir(), "sallyport")
	if err := os.WriteFile(binary, []byte(standIn), 0o755); err != nil {
		t.Fatal(err)
	}
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	first := one(t, filepath.Join(pack(t, "1.0", binary), "*."+arch+".rpm"))
	second := one(t, filepath.Join(pack(t, "1.1", binary), "*."+arch+".rpm"))
	h := newRPMHost(t)
	prepared := []string{"systemd-sysusers sallyport.conf", "systemd-tmpfiles --create sallyport.conf"}
	const units = "sallyport-lock.service sallyport-keeper.service sallyport.service"

	calls, out, err := h.rpm("-i", first)
	if want := append(slices.Clone(prepared), "systemctl enable --quiet "+units, "systemctl daemon-reload", "systemctl start "+units); err != nil || !slices.Equal(calls, want) {
		t.Fatalf("install: %v: %s: called %q, want %q", err, out, calls, want)
	}
	for _, path := range []string{"/usr/bin/sallyport", "/usr/lib/systemd/system/sallyport-lock.service", "/etc/sallyport/sallyport.yaml"} {
		if !h.has(path) {
			t.Errorf("no %s", path)
		}
	}
	h.write("etc/sallyport/sallyport.yaml", "version: 1\n")
	calls, out, err = h.rpm("-U", second)
	if want := append(slices.Clone(prepared), "systemctl daemon-reload", "systemctl try-restart sallyport-keeper.service sallyport.service"); err != nil || !slices.Equal(calls, want) {
		t.Errorf("upgrade: %v: %s: called %q, want %q", err, out, calls, want)
	}
	if data, err := os.ReadFile(filepath.Join(h.root, "etc/sallyport/sallyport.yaml")); err != nil || string(data) != "version: 1\n" {
		t.Errorf("an edited configuration became %q, %v", data, err)
	}

	h.write("busy", "")
	calls, out, err = h.rpm("-e", "sallyport")
	if err == nil || !slices.Equal(calls, []string{"sallyport uninstall --package"}) || !strings.Contains(out, "something runs behind the gate") || !h.has("/usr/bin/sallyport") {
		t.Errorf("removed while something runs: %v: %s: called %q", err, out, calls)
	}
	os.Remove(filepath.Join(h.root, "busy"))
	for _, u := range strings.Fields(units) {
		h.write("etc/systemd/system/multi-user.target.wants/"+u, "")
	}
	calls, out, err = h.rpm("-e", "sallyport")
	if want := []string{"sallyport uninstall --package", "systemctl daemon-reload"}; err != nil || !slices.Equal(calls, want) {
		t.Errorf("remove: %v: %s: called %q, want %q", err, out, calls, want)
	}
	var left []string
	filepath.WalkDir(h.root, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(p, "sallyport") {
			left = append(left, strings.TrimPrefix(p, h.root))
		}
		return nil
	})
	if !slices.Equal(left, []string{"/etc/sallyport/sallyport.yaml.rpmsave"}) {
		t.Errorf("left behind: %q", left)
	}
}

// foreignArch is the other architecture that packages are made for, and how others
// call it.
func foreignArch() (arch, qemu, rpm string) {
	if runtime.GOARCH == "arm64" {
		return "amd64", "qemu-x86_64-static", "x86_64"
	}
	return "arm64", "qemu-aarch64-static", "aarch64"
}

// TestForeignArch: the binary for the other architecture runs, as far as an
// emulator of its instructions goes, and its packages say whose they are.
func TestForeignArch(t *testing.T) {
	arch, qemu, rpm := foreignArch()
	binary := filepath.Join(t.TempDir(), "sallyport")
	out, err := run(t, []string{"GOOS=linux", "GOARCH=" + arch, "CGO_ENABLED=0"}, "go", "build", "-pgo=off", "-trimpath", "-ldflags=-s -w -E _rt0_sallyport -X main.version=1.0-test", "-o", binary, "./cmd/sallyport")
	if err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	dist := t.TempDir()
	for _, packager := range []string{"deb", "rpm"} {
		if out, err := run(t, []string{"ARCH=" + arch, "BINARY=" + binary, "VERSION=1.0", "MAINTAINER=t <t@localhost>"}, "bin/nfpm", "package", "--config", "systemd/nfpm.yaml", "--packager", packager, "--target", dist+"/"); err != nil {
			t.Fatalf("%s: %v: %s", packager, err, out)
		}
	}
	if out, err := run(t, nil, "dpkg-deb", "--field", one(t, dist+"/*.deb"), "Architecture"); err != nil || strings.TrimSpace(out) != arch {
		t.Errorf(".deb of %q, %v, want %s", out, err, arch)
	}
	if out, err := run(t, nil, "rpm", "-qp", "--queryformat", "%{ARCH}", one(t, dist+"/*.rpm")); err != nil || !strings.HasSuffix(out, rpm) {
		t.Errorf(".rpm of %q, %v, want %s", out, err, rpm)
	}
	emulator, err := exec.LookPath(qemu)
	if err != nil {
		t.Skipf("not run: there is no %s here; make setup-test installs it (qemu-user-static)", qemu)
	}
	conf := filepath.Join(t.TempDir(), "sallyport.yaml")
	policy := "version: 1\nrules:\n  - { name: read, match: { hosts: [api.example.com], methods: [GET] }, action: allow }\n"
	if err := os.WriteFile(conf, []byte(policy), 0o644); err != nil {
		t.Fatal(err)
	}
	explain := func(method string) []string {
		return []string{"policy", "explain", "--config", conf, "--workload", "w", "--method", method, "https://api.example.com/x"}
	}
	for _, c := range []struct {
		argv []string
		want string
	}{
		{[]string{"version"}, "1.0-test"},
		{[]string{"config", "check", conf}, ""},
		{[]string{"config", "show", "--config", conf}, "api.example.com"},
		{explain("GET"), "allow"},
		{explain("POST"), "deny"},
	} {
		out, err := run(t, nil, append([]string{emulator, binary}, c.argv...)...)
		if err != nil && c.argv[0] != "policy" || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v: %s", fmt.Sprint(c.argv), err, out)
		}
	}
}
