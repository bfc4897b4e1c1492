package e2e

import (
	"testing"

	"sallyport/pkg/audit"
	"sallyport/test/outside"
)

// TestConnectedUDPIsRecorded: send(2) on a connected UDP socket calls no BPF
// program and meets the guard first; the refusal is in the audit all the same,
// with its workload.
func TestConnectedUDPIsRecorded(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	p := outside.Start(t, h.command(h.exec("", "python3", "-u", "-c", `
import errno, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("203.0.113.10", 443))
try:
    s.send(b"initial")
    print("sent")
except OSError as e:
    print(errno.errorcode[e.errno])
sys.stdin.read()
`)...))
	// Its own gate ends with it: it waits for its event.
	if said, err := p.Line(); said != "EPERM" {
		t.Fatalf("send: %q, %v", said, err)
	}
	e := h.waitAudit("the rejected packet", func(e *audit.Event) bool {
		return e.Kind == audit.Refused && e.Workload.Name == "python3"
	})
	if e.Reason != "guard_rejected" && e.Reason != "udp_denied" || e.Verdict != "deny" {
		t.Errorf("refused: %+v", e)
	}
}
