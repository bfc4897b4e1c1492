package e2e

import (
	"strings"
	"testing"
)

// TestHarness: without sallyport the host reaches the internet. Every test that
// counts zero connections at the origin leans on this one.
func TestHarness(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, url := range []string{"https://api.example.com/x", "http://api.example.com/x", "https://v6.example.com/x", "https://other.example.com:8443/x"} {
		before := h.net.connections.Load()
		// One connection, however late the answer to its SYN.
		r := h.run(h.command("curl", "-sS", "--happy-eyeballs-timeout-ms", "60000", url))
		if r.code != 0 || !strings.Contains(r.stdout, `"ok":true`) {
			t.Errorf("curl %s: %v", url, r)
		}
		if h.net.connections.Load() != before+1 {
			t.Errorf("curl %s: the origin counted %d connections, want 1", url, h.net.connections.Load()-before)
		}
	}
	if r := h.run(h.command("curl", "-sS", "https://nowhere.example.com/")); r.code != 6 {
		t.Errorf("unknown name: %v", r)
	}
	if len(h.net.asked()) == 0 || len(h.net.seen()) == 0 {
		t.Error("the internet saw nothing")
	}
}
