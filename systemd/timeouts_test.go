package systemd

import (
	"strings"
	"testing"
	"time"

	"sallyport/pkg/keeper/protocol"
)

// TestStopTimeouts: a service waits longer for the listeners than its worker may take
// to give them up. Otherwise systemd kills who waits, and what was accepted is lost.
func TestStopTimeouts(t *testing.T) {
	for _, name := range []string{"sallyport-keeper.service", worker} {
		content, err := Files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var stop []string
		for line := range strings.Lines(string(content)) {
			if text, ok := strings.CutPrefix(strings.TrimSpace(line), "TimeoutStopSec="); ok {
				stop = append(stop, text)
			}
		}
		if len(stop) != 1 {
			t.Errorf("%s: TimeoutStopSec= %q, want one", name, stop)
			continue
		}
		// Of systemd.time(7) we write what Go reads as well.
		if d, err := time.ParseDuration(stop[0]); err != nil || d <= protocol.YieldTimeout {
			t.Errorf("%s: TimeoutStopSec=%s, %v, want more than the %s that its worker has to yield", name, stop[0], err, protocol.YieldTimeout)
		}
	}
}
