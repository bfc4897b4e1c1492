package confine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/workload"
)

func TestHiddenSocketsAreUnreachable(t *testing.T) {
	needRoot(t)
	dir := sharedDir(t)
	mkdir := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	socket := func(path string) string {
		listen(t, path)
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mkdir("run")
	file := socket(dir + "/run/engine.sock")
	inDir := socket(mkdir("run/bus") + "/system")
	linked := socket(mkdir("run/linked") + "/s")
	own := socket(mkdir("run/own") + "/admin")
	visible := socket(dir + "/run/other")
	if err := os.Symlink("run", dir+"/varrun"); err != nil {
		t.Fatal(err)
	}
	resolve := mkdir("run/resolve")
	varlink := socket(resolve + "/io.Resolve")
	if err := os.WriteFile(resolve+"/stub.conf", []byte("nameserver 127.0.0.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	sockets := []string{file, dir + "/varrun/engine.sock", inDir, linked, varlink, own, visible}
	s := asNobody(probing("dial", sockets...)...)
	s.Hide = []Hidden{
		{Path: file},
		{Path: dir + "/varrun/engine.sock"},
		{Path: dir + "/run/bus"},
		{Path: dir + "/varrun/linked"}, // hidden by its other name
		{Path: dir + "/varrun/bus"},
		{Path: resolve, KeepFiles: true},
		{Path: dir + "/run/absent"},
		{Path: file + "/below-a-file"},
	}
	s.Own = []string{dir + "/run/own"}
	for _, uid := range []int{0, nobody} {
		s.UID, s.GID = uid, uid
		got := succeed(t, wrapped(t, s))
		want := strings.ReplaceAll("ECONNREFUSED ECONNREFUSED ENOENT ENOENT ENOENT ENOENT ok ", " ", "\n")
		if want = "dial: " + strings.TrimSuffix(strings.ReplaceAll(want, "\n", "\ndial: "), "dial: "); got != want {
			t.Errorf("uid %d: got\n%swant\n%s", uid, got, want)
		}
	}
	s.Argv = []string{"cat", resolve + "/stub.conf"}
	if got := succeed(t, wrapped(t, s)); got != "nameserver 127.0.0.53\n" {
		t.Errorf("kept file: %q", got)
	}
	s.Argv = probing("write", resolve+"/stub.conf", dir+"/run/bus/x", file)
	s.UID, s.GID = 0, 0
	if got, want := succeed(t, wrapped(t, s)), "write: EROFS\nmkdir: EROFS\nwrite: ENOENT\nmkdir: EROFS\nwrite: EACCES\nmkdir: ok\n"; got != want {
		t.Errorf("covers can be written: got\n%s", got)
	}
	s.Argv = probing("dial", sockets...)
	s.KeepSockets = true
	if got := succeed(t, wrapped(t, s)); got != strings.Repeat("dial: ok\n", 5)+"dial: ENOENT\ndial: ok\n" {
		t.Errorf("with KeepSockets: %s", got)
	}
	// Nothing of it shows outside.
	if got := succeed(t, exec.Command(self, append([]string{probeArg, "dial"}, sockets...)...)); got != strings.Repeat("dial: ok\n", len(sockets)) {
		t.Errorf("outside: %s", got)
	}
}

func TestMountsCannotBeUndone(t *testing.T) {
	needRoot(t)
	dir := sharedDir(t)
	hidden := dir + "/hidden"
	if err := os.Mkdir(hidden, 0o755); err != nil {
		t.Fatal(err)
	}
	listen(t, hidden+"/s")
	tree := findTree(t)
	for _, uid := range []int{0, nobody} {
		for _, prefix := range [][]string{nil, {"unshare", "-Urm", "--propagation", "unchanged", "--"}} {
			argv := append(prefix, probing("namespace", hidden, "/mnt", tree.Point())...)
			r := run1(t, wrapped(t, Spec{Argv: argv, UID: uid, GID: uid, Hide: []Hidden{{Path: hidden}}}))
			if r.code != 0 {
				// Since 5.12 mapping uid 0 asks for CAP_SETFCAP outside.
				if uid != 0 || prefix == nil || !strings.Contains(r.err, "uid_map") {
					t.Errorf("uid %d %v: %s", uid, prefix, r.err)
				}
				continue
			}
			// EINVAL: the kernel locks what it copies to a lesser namespace.
			if got := fields(r.out); got["umount"] != "EPERM" && got["umount"] != "EINVAL" || got["mount"] != "EPERM" || got["remount"] != "EPERM" {
				t.Errorf("uid %d %v: %s", uid, prefix, r.out)
			}
		}
	}
}

func findTree(t *testing.T) *workload.Tree {
	t.Helper()
	tree, err := workload.FindTree()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return tree
}

func TestCgroupsAreReadOnly(t *testing.T) {
	needRoot(t)
	tree := findTree(t)
	// A second mount elsewhere, as container engines make.
	extra := sharedDir(t)
	if err := unix.Mount(tree.Point(), extra, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(extra, unix.MNT_DETACH) })

	list, err := workload.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	var control []string
	for _, m := range list {
		// Another run of these tests may have its own in a temporary directory.
		foreign := within(m.Point, os.TempDir()) && m.Point != extra
		if (m.Type == "cgroup" || m.Type == "cgroup2") && !foreign {
			control = append(control, m.Point+"/cgroup.procs")
		}
	}
	if len(control) < 2 {
		t.Fatalf("only %v", control)
	}
	got := succeed(t, wrapped(t, Spec{Argv: probing("write", control...)}))
	for line := range strings.Lines(got) {
		if line != "write: EROFS\n" && line != "mkdir: EROFS\n" {
			t.Error(line)
		}
	}
	if n := strings.Count(got, "\n"); n != 2*len(control) {
		t.Errorf("%d answers for %d files", n, len(control))
	}
	// What lies over a cgroup file system is not one.
	covered := sharedDir(t)
	for _, kind := range []string{"cgroup2", "tmpfs"} {
		if err := unix.Mount("test", covered, kind, 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(covered, unix.MNT_DETACH) })
	}
	if got := succeed(t, wrapped(t, Spec{Argv: probing("write", covered+"/x")})); got != "write: ENOENT\nmkdir: ok\n" {
		t.Errorf("over a cgroup file system: %s", got)
	}
	// And outside they are as before.
	if err := unix.Access(tree.Point()+"/cgroup.procs", unix.W_OK); err != nil {
		t.Errorf("outside: %v", err)
	}
}

func TestTrustDirectory(t *testing.T) {
	needRoot(t)
	dir := sharedDir(t)
	own, target := dir+"/own", dir+"/certs"
	source := own + "/trust"
	for _, d := range []string{own, source, target} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(source+"/bundle", "ours")
	write(target+"/bundle", "the system's")
	s := asNobody("sh", "-c", `cat "$0/bundle" "$1/view/deep/bundle"; read line; cat "$0/bundle"; ls "$1"; touch "$0/x"`, target, own)
	// The second lies in our own hidden directory, by its other name.
	if err := os.Symlink(own, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	s.Own = []string{dir + "/link"}
	s.Trust = []Mount{{source, target}, {source, dir + "/link/view/deep"}}
	cmd := wrapped(t, s)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8)
	for n := 0; n < 8; {
		m, err := stdout.Read(buf[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if string(buf) != "oursours" {
		t.Errorf("at the start: %q", buf)
	}
	// A rename in the source directory, as update-ca-certificates ends.
	write(source+"/new", "renewed\n")
	if err := os.Rename(source+"/new", source+"/bundle"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(stdin)
	rest := make([]byte, 256)
	n, _ := stdout.Read(rest)
	for n < len("renewed\nview\n") {
		m, err := stdout.Read(rest[n:])
		if err != nil {
			break
		}
		n += m
	}
	if got := string(rest[:n]); got != "renewed\nview\n" {
		t.Errorf("after renewal: %q", got)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the trust directory can be written")
	}
	// uid 0, whom file modes do not keep from writing.
	r := run1(t, wrapped(t, Spec{Argv: []string{"touch", target + "/x"}, Trust: s.Trust[:1]}))
	if r.code == 0 || !strings.Contains(r.err, "Read-only") {
		t.Errorf("as root: %+v", r)
	}
	r = run1(t, wrapped(t, Spec{Argv: []string{"true"}, Trust: []Mount{{source, dir + "/absent"}}}))
	if r.code != ExitFailed || !strings.Contains(r.err, "absent") {
		t.Errorf("absent target: %+v", r)
	}
}

// TestTrustFile: a file that a variable of the user's names is covered by one
// with our root in it; its neighbours stay.
func TestTrustFile(t *testing.T) {
	needRoot(t)
	dir := sharedDir(t)
	for name, text := range map[string]string{"theirs.pem": "theirs\n", "beside.pem": "beside\n", "both.pem": "theirs and ours\n"} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := asNobody("cat", dir+"/theirs.pem", dir+"/beside.pem")
	s.Trust = []Mount{{dir + "/both.pem", dir + "/theirs.pem"}}
	if r := run1(t, wrapped(t, s)); r.code != 0 || r.out != "theirs and ours\nbeside\n" {
		t.Errorf("inside: %+v", r)
	}
	if text, err := os.ReadFile(dir + "/theirs.pem"); err != nil || string(text) != "theirs\n" {
		t.Errorf("outside: %q, %v", text, err)
	}
	for target, wrong := range map[string]string{dir: "a directory", dir + "/absent.pem": "absent"} {
		s.Trust = []Mount{{dir + "/both.pem", target}}
		if r := run1(t, wrapped(t, s)); r.code != ExitFailed {
			t.Errorf("%s as target: %+v", wrong, r)
		}
	}
}

// TestPropagation: mounts that the host makes appear inside, and none of ours
// outside.
func TestPropagation(t *testing.T) {
	needRoot(t)
	base := sharedDir(t)
	if err := unix.Mount("test", base, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(base, unix.MNT_DETACH) })
	if err := unix.Mount("", base, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"/late", "/hidden"} {
		if err := os.Mkdir(base+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := Spec{Argv: []string{"sh", "-c", "echo ready; read x; cat " + base + "/late/f"}, Hide: []Hidden{{Path: base + "/hidden"}}}
	cmd := wrapped(t, s)
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if n, err := stdout.Read(buf); err != nil || string(buf[:n]) != "ready\n" {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	list, err := workload.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list {
		if m.Point == base+"/hidden" {
			t.Error("a cover shows outside")
		}
	}
	if err := unix.Mount("late", base+"/late", "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(base+"/late", unix.MNT_DETACH) })
	if err := os.WriteFile(base+"/late/f", []byte("seen"), 0o644); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(stdin)
	n, _ := stdout.Read(buf)
	if string(buf[:n]) != "seen" {
		t.Errorf("a mount made later: %q", buf[:n])
	}
	cmd.Wait()
}

func TestWorkingDirectory(t *testing.T) {
	needRoot(t)
	dir := sharedDir(t)
	hidden := dir + "/hidden"
	if err := os.MkdirAll(hidden+"/deep", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hidden+"/secret", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := asNobody("ls", "-a")
	s.Hide = []Hidden{{Path: hidden}}
	cmd := wrapped(t, s)
	cmd.Dir = hidden
	if got := succeed(t, cmd); got != ".\n..\n" {
		t.Errorf("in a hidden directory: %q", got)
	}
	cmd = wrapped(t, s)
	cmd.Dir = hidden + "/deep"
	if r := run1(t, cmd); r.code != ExitFailed || !strings.Contains(r.err, "hidden") {
		t.Errorf("below one: %+v", r)
	}
	cmd = wrapped(t, asNobody("pwd"))
	cmd.Dir = dir
	if got := succeed(t, cmd); got != dir+"\n" {
		t.Errorf("kept: %q", got)
	}
	s = asNobody("pwd")
	s.Dir = dir
	if got := succeed(t, wrapped(t, s)); got != dir+"\n" {
		t.Errorf("given: %q", got)
	}
	private := dir + "/private"
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Dir = private
	if r := run1(t, wrapped(t, s)); r.code != ExitFailed {
		t.Errorf("a directory that the user may not enter: %+v", r)
	}
}

func TestHiddenSocketsOf(t *testing.T) {
	list := HiddenSockets(1000, "/home/u", []string{
		"DBUS_SESSION_BUS_ADDRESS=unix:path=/tmp/dbus%2dx,guid=1;unix:abstract=/tmp/y;tcp:host=h",
		"DOCKER_HOST=unix:///tmp/d.sock", "CONTAINER_HOST=ssh://h", "XDG_RUNTIME_DIR=/tmp/run-u",
		"TMUX=/tmp/t/mine,4711,0", "TMUX_TMPDIR=/tmp/t2", "SCREENDIR=/tmp/s",
	})
	has := make(map[string]bool)
	for _, h := range list {
		if !filepath.IsAbs(h.Path) {
			t.Errorf("%q is not absolute", h.Path)
		}
		has[h.Path] = true
	}
	for _, want := range []string{
		"/run/docker.sock", "/var/run/docker.sock", "/run/containerd", "/run/crio", "/run/podman", "/run/nscd", "/run/systemd/resolve",
		"/run/avahi-daemon", "/run/dbus", "/run/systemd/private", "/run/user/1000/bus", "/run/user/1000/podman", "/run/user/1000/systemd/private",
		"/tmp/run-u/bus", "/tmp/dbus-x", "/tmp/d.sock", "/home/u/.docker/run",
		"/run/cups", "/run/tailscale", "/run/tor", "/run/user/1000/gnupg/S.dirmngr", "/home/u/.gnupg/S.dirmngr", "/run/user/1000/pulse",
		"/run/user/1000/pipewire-0", "/tmp/tmux-1000", "/tmp/t/mine", "/tmp/t2/tmux-1000", "/run/screen", "/tmp/s", "/run/user/1000/emacs",
	} {
		if !has[want] {
			t.Errorf("%s is not hidden", want)
		}
	}
}

func FuzzBusPaths(f *testing.F) {
	f.Add("unix:path=/run/user/1000/bus")
	f.Add("unix:path=/a%zz,guid=%;;")
	f.Fuzz(func(t *testing.T, s string) {
		for _, h := range busPaths(s) {
			if !strings.HasPrefix(h.Path, "/") && !strings.HasPrefix(h.Path, "%") {
				t.Errorf("%q", h.Path)
			}
		}
	})
}

func TestWithin(t *testing.T) {
	for _, tt := range []struct {
		path, dir string
		want      bool
	}{{"/a/b", "/a", true}, {"/a", "/a", true}, {"/ab", "/a", false}, {"/a", "/a/b", false}, {"/x", "/", true}} {
		if got := within(tt.path, tt.dir); got != tt.want {
			t.Errorf("within(%q, %q) = %v", tt.path, tt.dir, got)
		}
	}
}
