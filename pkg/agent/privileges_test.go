package agent

import (
	"strings"
	"testing"
)

const unprivileged = `Name:	sallyport
CapInh:	0000000000000000
CapPrm:	0000000000000000
CapEff:	0000000000000000
CapBnd:	0000000000000000
CapAmb:	0000000000000000
NoNewPrivs:	1
`

// TestCheckStatus: whatever a worker must not have is named, and what the kernel
// does not tell counts as had.
func TestCheckStatus(t *testing.T) {
	if err := checkStatus(unprivileged); err != nil {
		t.Fatalf("an unprivileged process is refused: %v", err)
	}
	for _, field := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		with := strings.Replace(unprivileged, field+":\t0000000000000000", field+":\t0000000000000400", 1)
		if err := checkStatus(with); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s with a capability: %v", field, err)
		}
		without := strings.Replace(unprivileged, field+":\t0000000000000000\n", "", 1)
		if err := checkStatus(without); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("without %s: %v", field, err)
		}
	}
	if err := checkStatus(strings.Replace(unprivileged, "NoNewPrivs:\t1", "NoNewPrivs:\t0", 1)); err == nil {
		t.Error("a process that can gain privileges is accepted")
	}
}

// TestCheckPrivileges: the test runs as root or as a plain user with groups;
// neither is a worker.
func TestCheckPrivileges(t *testing.T) {
	if err := CheckPrivileges(); err == nil {
		t.Error("this process is taken for a worker")
	}
}
