package tag

import (
	"strings"
	"testing"

	"sallyport/pkg/systemd"
)

// TestHandedIn: sockets of this host alone are no way out; all others are named with
// what to do.
func TestHandedIn(t *testing.T) {
	inside := []systemd.Listen{{Kind: "Stream", Address: "/run/web.sock"}, {Kind: "Stream", Address: "@web"}, {Kind: "FIFO", Address: "/run/web"}}
	if why := handedIn("web.service", "web.socket", inside); why != "" {
		t.Error(why)
	}
	why := handedIn("web.service", "web.socket", append(inside, systemd.Listen{Kind: "Stream", Address: "0.0.0.0:8080"}, systemd.Listen{Kind: "Stream", Address: "vsock:2:1"}))
	for _, want := range []string{"web.socket hands it", "ListenStream=0.0.0.0:8080", "ListenStream=vsock:2:1", "systemctl disable --now web.socket", "`listen`"} {
		if !strings.Contains(why, want) {
			t.Errorf("%q says nothing of %q", why, want)
		}
	}
	if strings.Contains(why, "/run/web") {
		t.Errorf("%q names sockets of this host", why)
	}
}
