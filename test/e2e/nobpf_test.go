package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// withoutBPF has everything that is started by the host's binary meet a kernel
// whose bpf(2) answers errno: a filter that says so is put before it.
func (h *host) withoutBPF(errno unix.Errno) {
	h.t.Helper()
	const program = "/srv/bin/withoutbpf"
	h.putProgram(program, fmt.Appendf(nil, `#!/usr/bin/python3
import ctypes, os, struct, sys
# seccomp(2): load nr; is it bpf's? answer, else allow
code = b"".join(struct.pack("HBBI", *i) for i in [(0x20, 0, 0, 0), (0x15, 0, 1, %d), (0x06, 0, 0, 0x00050000 | %d), (0x06, 0, 0, 0x7fff0000)])
held = ctypes.create_string_buffer(code)
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
p = Program(4, ctypes.addressof(held))
if ctypes.CDLL(None, use_errno=True).prctl(22, 2, ctypes.byref(p)) != 0: # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv("%s", ["sallyport"] + sys.argv[1:])
`, unix.SYS_BPF, int(errno), h.binary))
	h.binary = program
}

// TestWithoutCgroupBPF: where bpf(2) is not there, knows no programs of cgroups, or
// is refused even to root, nobody has to choose: nftables captures alone, and run,
// status and doctor say that there is one lock.
func TestWithoutCgroupBPF(t *testing.T) {
	t.Parallel()
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EINVAL, unix.EPERM} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			h := newHost(t)
			h.withoutBPF(errno)
			config, units := threeWorkloads(h)
			d := h.startDaemon(h.config(config))
			if r := h.run(h.inside(units["alpha"], nobody, "curl", "-4sS", "http://other.example.com/first")); !strings.Contains(r.stdout, `"ok":true`) {
				t.Errorf("allowed: %v\n%s", r, d.stderr)
			}
			reached := h.net.connections.Load()
			if r := h.run(h.inside(units["beta"], nobody, "curl", "-4sS", "--resolve", "other.example.com:80:"+originV4, "http://other.example.com/second")); !strings.Contains(r.stdout, "no_rule") || h.net.connections.Load() != reached {
				t.Errorf("denied: %v", r)
			}
			s := h.status()
			if !s.Ready || !s.EnforcementActive || !strings.HasPrefix(strings.Join(s.Problems, "\n"), "one lock: this host has no cgroup BPF") {
				t.Errorf("status: %+v", s)
			}
			if n := h.scrape("sallyport_enforcement_locks"); n != 1 {
				t.Errorf("%v locks", n)
			}
			r := h.run(h.command("env", "PATH=/nowhere", h.binary, "doctor", "--json", "--config", daemonConfig))
			said := make(map[string]string)
			for line := range strings.Lines(r.stdout) {
				var c struct{ Check, Status, Detail, Remedy string }
				if err := json.Unmarshal([]byte(line), &c); err != nil {
					t.Fatalf("doctor: %v: %q", err, line)
				}
				said[c.Check] = c.Status + ": " + c.Detail + "; " + c.Remedy
			}
			for check, want := range map[string]string{"bpf": "nftables captures, with one lock", "locks": "one lock: nftables captures and guards alone"} {
				if !strings.HasPrefix(said[check], "warning: ") || !strings.Contains(said[check], want) {
					t.Errorf("doctor says of %s: %q", check, said[check])
				}
			}
		})
	}
}

// TestBPFLost: where programs of an earlier start are in force, a start that can
// load none does not go on with less. It says why, and the gate stays shut.
func TestBPFLost(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	config, units := threeWorkloads(h)
	d := h.startDaemon(h.config(config))
	d.stop()
	pins := h.sh("find /sys/fs/bpf | sort").stdout
	h.withoutBPF(unix.EPERM)
	r := h.run(h.sallyport("run", "--config", daemonConfig))
	if r.code != 1 || !strings.Contains(r.stderr, "bpf") || !strings.Contains(r.stderr, "operation not permitted") || !strings.Contains(r.stderr, "sallyport doctor") {
		t.Errorf("run: %v", r)
	}
	if now := h.sh("find /sys/fs/bpf | sort").stdout; now != pins || !strings.Contains(pins, "/service/") {
		t.Errorf("pins were %s\nand are %s", pins, now)
	}
	if r := h.run(h.inside(units["alpha"], nobody, "curl", "-4sS", "--resolve", "other.example.com:80:"+originV4, "http://other.example.com/")); r.code == 0 || h.net.connections.Load() != 0 {
		t.Errorf("the gate is open: %v", r)
	}
}
