package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sallyport/test/outside"
)

const installedConfig = "/etc/sallyport/sallyport.yaml"

// layered are the directories to which installing and tagging write.
const layered = "/etc /usr/bin /usr/lib /usr/share"

// ownSystem puts a layer over what installing and tagging write to, so that nothing
// of it reaches the machine.
func (h *host) ownSystem() {
	h.t.Helper()
	r := h.sh(`set -e
mount -t tmpfs tmpfs /mnt
for d in ` + layered + `; do
  mkdir -p /mnt/upper$d /mnt/work$d /mnt/lower$d
  mount --bind $d /mnt/lower$d
  mount -t overlay overlay -o lowerdir=$d,upperdir=/mnt/upper$d,workdir=/mnt/work$d $d
done
mount --bind /tmp/etc-ssl/certs /etc/ssl/certs
mount --bind /tmp/hosts /etc/hosts
mount --bind /tmp/resolv.conf /etc/resolv.conf
rmdir /etc/sallyport # the machine's, where other hosts have mounts`)
	if r.code != 0 {
		h.t.Fatalf("a system of its own: %v", r)
	}
}

// system is a snapshot with what differs from the machine's own files where
// installing and tagging write.
func (h *host) system() snapshot {
	h.t.Helper()
	r := h.sh(`cd /mnt/upper
find . -type f -printf 'file %P %m\n' -o -type l -printf 'link %P\n' -o -type c -printf 'removed %P\n' -o -type d -printf '%P\n' |
  while read -r line; do case $line in *' '*) echo "$line" ;; *) [ -d "/mnt/lower/$line" ] || echo "directory $line" ;; esac; done | sort
find /usr/local/share/ca-certificates -printf 'file %p %m\n'
sha256sum /etc/ssl/certs/ca-certificates.crt`)
	return append(h.snapshot(), strings.Split(strings.TrimSpace(r.stdout), "\n")...)
}

// jobs remembers what systemd did, and does what a test wants done with it.
type jobs struct {
	mu   sync.Mutex
	all  []string
	does map[string]func()
}

func (j *jobs) job(verb, unit string, properties map[string]any) string {
	what := verb + " " + unit
	if start, ok := properties["ExecStart"].([][]any); ok {
		what = "run " + strings.Join(start[0][1].([]string), " ")
	}
	j.mu.Lock()
	j.all = append(j.all, what)
	does := j.does[what]
	j.mu.Unlock()
	if does != nil {
		does()
	}
	return "done"
}

// take gives what was done since the last time.
func (j *jobs) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := j.all
	j.all = nil
	return all
}

// TestInstall: install puts down its files and has systemd enable and start the
// units in their order; again it upgrades, and the lock is left alone; uninstall
// refuses while something runs behind the gate, and with --stop --purge it leaves
// the host as it found it: no drop-in, tag, certificate in the host's store, file,
// cgroup or table.
func TestInstall(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putInmate()
	h.ownSystem()
	server := h.bootSystemd()
	did := &jobs{does: make(map[string]func())}
	server.Job = did.job
	for _, unit := range []string{"sallyport-lock.service", "sallyport-keeper.service", "sallyport.service"} {
		server.Put(unit, nil)
	}
	// The first time that it runs it changes more than what we gave it.
	if r := h.sh("cp --remove-destination " + h.binary + " /srv/bin/new && update-ca-certificates --fresh"); r.code != 0 {
		t.Fatalf("prepare: %v", r)
	}
	before := h.system()

	dry := h.run(h.command("/srv/bin/new", "install", "--dry-run"))
	if dry.code != 0 || !strings.Contains(dry.stdout, "create   /usr/bin/sallyport\n") || len(server.Calls()) != 0 {
		t.Errorf("--dry-run: %v, %q", dry, server.Calls())
	}
	if changed := h.system().minus(before); len(changed) > 0 {
		t.Errorf("--dry-run changed %v", changed)
	}
	r := h.run(h.command("/srv/bin/new", "install"))
	if r.code != 0 {
		t.Fatalf("install: %v", r)
	}
	wantJobs := []string{
		"run systemd-sysusers sallyport.conf", "run systemd-tmpfiles --create sallyport.conf",
		"start sallyport-lock.service", "start sallyport-keeper.service", "start sallyport.service",
	}
	if got := did.take(); !slices.Equal(got, wantJobs) {
		t.Errorf("install had systemd do %q, want %q", got, wantJobs)
	}
	units := "sallyport-lock.service sallyport-keeper.service sallyport.service"
	calls := strings.Join(server.Calls(), "\n")
	if !strings.Contains(calls, "Reload\nEnableUnitFiles "+units+"\nReload\nStartUnit sallyport-lock.service\n") {
		t.Errorf("install called %s", calls)
	}
	for path, mode := range map[string]os.FileMode{"/usr/bin/sallyport": 0o755, "/usr/lib/systemd/system/mcp.slice": 0o644, installedConfig: 0o644, "/usr/share/man/man1/sallyport.1": 0o644} {
		if info, err := os.Stat(h.path(path)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}

	// An upgrade: an edited configuration stays, and the lock as it is.
	h.write(installedConfig, h.config("mode: observe\n"))
	if r := h.sh("printf x >>/srv/bin/new"); r.code != 0 {
		t.Fatalf("another version: %v", r)
	}
	if r := h.run(h.command("/srv/bin/new", "install")); r.code != 0 || !strings.Contains(r.stdout, "keep     "+installedConfig) || !strings.Contains(r.stdout, "replace  /usr/bin/sallyport") {
		t.Errorf("upgrade: %v", r)
	}
	if got, want := did.take(), append(slices.Clone(wantJobs[:3]), "restart sallyport-keeper.service", "restart sallyport.service"); !slices.Equal(got, want) {
		t.Errorf("upgrade had systemd do %q, want %q", got, want)
	}
	if n := strings.Count(strings.Join(server.Calls(), "\n"), "EnableUnitFiles"); n != 1 {
		t.Errorf("units were enabled %d times: who disabled one would find it enabled", n)
	}

	// What runs and is tagged.
	d := h.startDaemon(h.config("mode: observe\n"))
	server.Put("mcp-x.service", map[string]any{"ActiveState": "active", "FragmentPath": "/etc/systemd/system/mcp-x.service", "Slice": h.slice})
	apart := h.apart("tagged")
	for _, args := range [][]string{{"tag", "unit", "mcp-x", "--workload", "x", "--restart"}, {"tag", "cgroup", apart}, {"ca", "trust"}} {
		if r := h.run(h.command(append(append([]string{"/usr/bin/sallyport"}, args...), "--config", daemonConfig)...)); r.code != 0 {
			t.Errorf("%q: %v", args, r)
		}
	}
	if did := did.take(); !slices.Equal(did, []string{"restart mcp-x.service"}) {
		t.Errorf("tagging had systemd do %q", did)
	}
	during := h.system().minus(before)
	for _, kind := range []string{"file etc/systemd/system/mcp-x.service.d/50-sallyport.conf ", "file /usr/local/share/ca-certificates/sallyport-root.crt ", "file /var/lib/sallyport/tags.json ", "file usr/bin/sallyport ", "nft table", "cgroup "} {
		if !slices.ContainsFunc(during, func(l string) bool { return strings.HasPrefix(l, kind) }) {
			t.Errorf("there is no %q: the comparison would prove nothing", kind)
		}
	}
	slice := "/sys/fs/cgroup/" + h.slice // where this host has cgroup2
	lone := h.startInmate("bash", "-c", "mkdir -p "+slice+"/a && echo $$ > "+slice+"/a/cgroup.procs && exec "+inmatePath)
	uninstall := func(more ...string) result {
		return h.run(h.command(append([]string{"/usr/bin/sallyport", "uninstall"}, more...)...))
	}
	r = uninstall("--purge")
	if r.code != 1 || !strings.Contains(r.stderr, fmt.Sprintf("%d inmate in /%s/a", lone.pid, h.slice)) || len(did.take()) != 0 || !living(d.pid) {
		t.Errorf("while something runs behind the gate: %v", r)
	}

	did.mu.Lock()
	did.does["stop sallyport-keeper.service"] = func() { // and so the daemon
		d.cmd.Process.Signal(unix.SIGTERM)
		select {
		case <-d.ended:
		case <-time.After(40 * time.Second):
		}
	}
	did.mu.Unlock()
	for _, unit := range []string{h.slice, "sallyport.slice"} {
		server.Put(unit, nil)
	}
	r = uninstall("--stop", "--purge")
	if r.code != 0 {
		t.Fatalf("uninstall: %v", r)
	}
	if living(lone.pid) {
		t.Error("--stop let a process live")
	}
	stops := []string{"stop sallyport.service", "stop sallyport-keeper.service", "stop " + h.slice, "stop sallyport.slice", "stop " + h.slice}
	if got := did.take(); len(got) < len(stops) || !slices.Equal(got[:len(stops)], stops) {
		t.Errorf("uninstall had systemd do %q, want %q", got, stops)
	}
	calls = strings.Join(server.Calls(), "\n")
	if i := strings.Index(calls, "DisableUnitFiles "+units); i < 0 || !strings.Contains(calls[i:], "\nReload") {
		t.Errorf("uninstall called %s", calls)
	}
	outside.RemoveCgroups(filepath.Join(cgroupRoot(), apart))
	os.Remove(h.path("/srv/bin/new"))
	var left snapshot
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		left = slices.DeleteFunc(h.system().minus(before), func(l string) bool { return strings.HasPrefix(l, "file /srv/") || strings.HasPrefix(l, "file /tmp ") })
		if len(left) == 0 || late(start, goneAfter) {
			break
		}
	}
	if len(left) > 0 {
		t.Errorf("left behind: %s", strings.Join(left, "\n"))
	}
	if gone := before.minus(h.system()); slices.ContainsFunc(gone, func(l string) bool { return !strings.HasPrefix(l, "file /srv/") }) {
		t.Errorf("taken away that was there before: %s", strings.Join(gone, "\n"))
	}
}
