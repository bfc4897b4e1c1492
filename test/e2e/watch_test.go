package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sallyport/pkg/audit"
)

// waitProblem waits until the status has a problem that begins like this, or has
// none such any more.
func (h *host) waitProblem(prefix string, there bool) (problem string) {
	h.t.Helper()
	eventually(h.t, 20*time.Second, fmt.Sprintf("problem %q in the status: %v", prefix, there), func() bool {
		problem = ""
		for _, p := range h.status().Problems {
			if strings.HasPrefix(p, prefix) {
				problem = p
			}
		}
		return (problem != "") == there
	})
	return problem
}

// waitNote waits for a lifecycle event that begins like this.
func (h *host) waitNote(prefix string) {
	h.t.Helper()
	h.waitAudit("lifecycle: "+prefix, func(e *audit.Event) bool {
		return e.Kind == audit.Lifecycle && strings.HasPrefix(e.Message, prefix)
	})
}

// TestForeignPrograms: another program at one of our hooks is in the status as long
// as it is there, and changes nothing of what is refused.
func TestForeignPrograms(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	h.startDaemon(h.config(attentive))
	w := h.tap()
	dir := h.below("stranger")
	// It returns 3 at connect: "allowed, and skip what asks for CAP_NET_BIND_SERVICE",
	// and rewrites the target: to the origin itself, around us.
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "stranger", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{
			asm.StoreImm(asm.R1, 4, int64(0x0a7100cb), asm.Word), // user_ip4: 203.0.113.10
			asm.StoreImm(asm.R1, 24, int64(0x131d), asm.Word),    // user_port: 7443
			asm.Mov.Imm(asm.R0, 1), asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, at := range []string{dir, filepath.Dir(dir)} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: at, Attach: ebpf.AttachCGroupInet4Connect, Program: program})
		if err != nil {
			t.Fatal(err)
		}
		p := h.waitProblem("bpf programs: another program's", true)
		if !strings.Contains(p, "(stranger) at connect4") {
			t.Errorf("problem: %q", p)
		}
		h.waitNote("noticed: bpf programs: another program's")
		said := h.sock("stranger", nobody, "socket inet stream 6", "connect "+originV4+" 7443", "send hello")
		w.silent(fmt.Sprintf("with a stranger at %s, where the program saw %q", at, said))
		if s := h.status(); !s.EnforcementActive && at == dir {
			t.Errorf("status: %+v", s)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		h.waitProblem("bpf programs: ", false)
	}
	h.waitNote("over: bpf programs")
	if n := h.net.connections.Load(); n != 0 {
		t.Errorf("%d connections reached the origin", n)
	}
}

// TestOtherTables: a table of somebody else that accepts everything, before or
// behind ours, opens nothing, with the guard alone; and whatever is changed in our
// table is back within a second.
func TestOtherTables(t *testing.T) {
	h := newHost(t)
	h.putSock()
	d := h.startDaemon(h.config(attentive))
	w := h.tap()
	table := "inet " + strings.ReplaceAll(h.name, "-", "_")
	try := func(t *testing.T, what string) {
		t.Helper()
		w.packets()
		said := h.sock("other", nobody, "socket inet stream 6", "connect "+originV4+" 7443", "send hello",
			"socket inet6 dgram 17", "sendto "+originV6+" 443 hello", "socket inet dgram 17", "connect "+originV4+" 443", "send hello")
		w.silent(fmt.Sprintf("%s; the program saw %q", what, said))
	}
	t.Run("others", func(t *testing.T) {
		h.kill(d.pid, unix.SIGSTOP)
		h.detach("*")
		for _, family := range []string{"inet", "ip", "ip6"} {
			for _, priority := range []string{"-500", "-1", "0", "500"} {
				rules := fmt.Sprintf("add table %[1]s other; add chain %[1]s other o { type filter hook output priority %[2]s; policy accept; }; add rule %[1]s other o accept", family, priority)
				if r := h.run(h.command("nft", rules)); r.code != 0 {
					t.Fatalf("nft: %v", r)
				}
				try(t, family+" at priority "+priority)
				h.sh("nft delete table " + family + " other")
			}
		}
		h.kill(d.pid, unix.SIGCONT)
		h.waitLocks()
	})
	chains := strings.Fields(h.sh("nft list table " + table + " | sed -n 's/^\tchain \\([a-z0-9_]*\\) {/\\1/p'").stdout)
	sets := strings.Fields(h.sh("nft list table " + table + " | sed -n 's/^\tset \\([a-z0-9_]*\\) {/\\1/p'").stdout)
	if len(chains) == 0 || len(sets) == 0 {
		t.Fatalf("chains %q, sets %q", chains, sets)
	}
	edits := []string{"delete table " + table, "add chain " + table + " stranger"}
	for _, c := range chains {
		edits = append(edits, "flush chain "+table+" "+c, "insert rule "+table+" "+c+" accept")
	}
	for _, s := range sets {
		edits = append(edits, "flush set "+table+" "+s)
	}
	for _, edit := range edits {
		t.Run(edit, func(t *testing.T) {
			before := h.sh("nft -s list table " + table).stdout
			best(t, "the table is back", time.Second, func() time.Duration {
				if r := h.run(h.command("nft", edit)); r.code != 0 {
					t.Fatalf("nft: %v", r)
				}
				start := time.Now()
				var took time.Duration
				eventually(t, 10*time.Second, "the table as it was", func() bool {
					took = time.Since(start)
					return sameRules(h.sh("nft -s list table "+table).stdout, before)
				})
				return took
			})
		})
	}
	try(t, "after all edits")
	h.waitNote("repaired: guard: ")
	h.waitLocks()
	if n := h.net.connections.Load(); n != 0 {
		t.Errorf("%d connections reached the origin", n)
	}
}

// sameRules compares two listings; a set's elements have no order.
func sameRules(a, b string) bool {
	words := func(s string) []string {
		list := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == '\n' || r == '\t' })
		slices.Sort(list)
		return list
	}
	return slices.Equal(words(a), words(b))
}

// TestFullDisk: a full disk is in the status; where the audit cannot be written
// exchanges are refused, and all is well again as soon as there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	if r := h.sh("mount -o remount,size=4m /var/log && mount -o remount,size=40m /var/lib"); r.code != 0 {
		t.Fatal(r)
	}
	h.startDaemon(h.config("default: allow\nmode: observe\n"))
	// Its name is resolved beforehand: questions are not answered either.
	ask := func() result {
		return h.run(h.inside("writer", nobody, "curl", "-sS", "--max-time", "30", "-w", " %{http_code}", "--resolve", "api.example.com:80:"+originV4, "http://api.example.com/"))
	}
	if r := ask(); !strings.HasSuffix(r.stdout, " 200") {
		t.Fatalf("before: %v", r)
	}
	h.sh("dd if=/dev/zero of=/var/lib/sallyport/full bs=1M 2>/dev/null")
	if p := h.waitProblem("disk: state_dir /var/lib/sallyport has ", true); !strings.Contains(p, "make room") {
		t.Errorf("problem: %q", p)
	}
	h.waitNote("noticed: disk: state_dir ")
	h.sh("rm /var/lib/sallyport/full")
	h.waitProblem("disk: state_dir", false)
	h.waitNote("over: disk")

	h.sh("dd if=/dev/zero of=/var/log/sallyport/full bs=4k 2>/dev/null")
	eventually(t, 10*time.Second, "503 audit_unavailable", func() bool {
		r := ask()
		return strings.HasSuffix(r.stdout, " 503") && strings.Contains(r.stdout, "audit_unavailable")
	})
	h.waitProblem("disk: audit /var/log/sallyport has ", true)
	if p := h.waitProblem("audit: ", true); !strings.Contains(p, "exchanges are refused") {
		t.Errorf("problem: %q", p)
	}
	h.sh("rm /var/log/sallyport/full")
	eventually(t, 15*time.Second, "exchanges again, with no help", func() bool { return strings.HasSuffix(ask().stdout, " 200") })
	h.waitProblem("audit: ", false)
	h.waitProblem("disk: ", false)
	if s := h.status(); !s.Ready {
		t.Errorf("status: %+v", s)
	}
}

// TestAuthorityNearItsEnd: a root that ends in a month is in the status and in the
// metrics.
func TestAuthorityNearItsEnd(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	end := time.Now().Add(30*24*time.Hour + time.Hour)
	h.plantRoot(end)
	begin := time.Now()
	h.startDaemon(h.config("default: allow\nmode: observe\n"))
	if p := h.waitProblem("certificates: the root certificate ends in 30 days", true); !strings.Contains(p, "sallyport ca rotate") {
		t.Errorf("problem: %q", p)
	}
	h.waitNote("noticed: certificates: the root certificate ends in 30 days")
	if got := h.scrape(`sallyport_ca_expiry_timestamp_seconds{certificate="root"}`); got != float64(end.Unix()) {
		t.Errorf("metric: %.0f, want %d", got, end.Unix())
	}
	const week = 7 * 24 * time.Hour
	least, most := float64(begin.Add(week-time.Minute).Unix()), float64(time.Now().Add(week+time.Minute).Unix())
	if got := h.scrape(`sallyport_ca_expiry_timestamp_seconds{certificate="issuing"}`); got < least || got > most {
		t.Errorf("metric: the issuing certificate ends at %.0f, want a week from its start, %.0f to %.0f", got, least, most)
	}
	// Without a PATH there are no runtimes to shake hands with.
	r := h.run(h.command("env", "PATH=/nowhere", h.binary, "doctor", "--json", "--config", "/srv/daemon/policy.yaml"))
	if r.code != 1 {
		t.Errorf("doctor: %v", r)
	}
	want := map[string]string{"authority": "warning", "daemon": "failed", "listeners": "ok", "bpffs": "ok"}
	for line := range strings.Lines(r.stdout) {
		var c struct{ Section, Check, Status, Detail, Remedy string }
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("doctor: %v: %q", err, line)
		}
		if c.Section == "" || c.Detail == "" || (c.Status == "failed" || c.Status == "warning") != (c.Remedy != "") {
			t.Errorf("doctor: %+v", c)
		}
		if want[c.Check] == c.Status && (c.Check != "daemon" || strings.HasPrefix(c.Detail, "certificates: the root certificate ends in 30 days")) {
			delete(want, c.Check)
		}
	}
	if len(want) > 0 {
		t.Errorf("doctor did not say %v: %s", want, r.stdout)
	}
}

// plantRoot gives the host an authority that ends at some time.
func (h *host) plantRoot(end time.Time) {
	h.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "an old root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{7},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		h.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("/var/lib/sallyport/ca/root.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	h.write("/var/lib/sallyport/ca/root.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	for name, mode := range map[string]os.FileMode{"/var/lib/sallyport/ca": 0o755, "/var/lib/sallyport/ca/root.key": 0o600} {
		if err := os.Chmod(h.path(name), mode); err != nil {
			h.t.Fatal(err)
		}
	}
}

// TestSliceMadeAgain: a slice that somebody removes and makes again is another
// cgroup; it is tagged, too, and the status is well again.
func TestSliceMadeAgain(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.putSock()
	h.startDaemon(h.config("default: deny\n"))
	w := h.tap()
	slice := filepath.Join(cgroupRoot(), h.slice)
	inode := func() uint64 {
		var st unix.Stat_t
		if unix.Stat(slice, &st) != nil {
			return 0
		}
		return st.Ino
	}
	for range 3 {
		before := inode()
		// A self-probe may be in there: then the kernel refuses, and it is tried again.
		eventually(t, 10*time.Second, "the slice can be removed", func() bool {
			entries, _ := os.ReadDir(slice)
			for _, e := range entries {
				if e.IsDir() {
					os.Remove(filepath.Join(slice, e.Name()))
				}
			}
			return os.Remove(slice) == nil
		})
		os.Mkdir(slice, 0o755)
		eventually(t, 20*time.Second, "ready again", func() bool {
			// Pins are named after the cgroup's id.
			return inode() != before && h.sh(fmt.Sprintf("ls -d /sys/fs/bpf/sallyport/*/*/links/%d-connect6", inode())).code == 0 &&
				h.run(h.sallyport("status", "--config", "/srv/daemon/policy.yaml")).code == 0
		})
		w.packets()
		said := h.sock("again", nobody, "socket inet stream 6", "connect "+originV4+" 80", "send hello", "socket inet dgram 17", "sendto "+originV4+" 443 hello")
		w.silent(fmt.Sprintf("from the new slice; the program saw %q", said))
	}
	h.waitNote("the cgroup /" + h.slice)
	if n := h.net.connections.Load(); n != 0 {
		t.Errorf("%d connections reached the origin", n)
	}
}
