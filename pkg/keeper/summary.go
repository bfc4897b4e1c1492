package keeper

import (
	"fmt"
	"time"
)

// lateWatch is how old the last comparison may be for the keeper to count as
// alive.
const lateWatch = 10 * watchInterval

// Watching reports whether both locks are being compared as often as they must.
func (k *Keeper) Watching() bool {
	return time.Since(time.Unix(0, k.compared.Load())) < lateWatch
}

// Summary is a line about the keeper for `systemctl status`.
func (k *Keeper) Summary() string {
	k.mu.Lock()
	serving := k.serving
	k.mu.Unlock()
	draining := len(k.draining())
	line := "gate shut; "
	switch {
	case !serving && k.gate.listening():
		line += "no worker: new connections wait"
	case !serving:
		line += "no worker: connections are refused"
	default:
		line += "a worker serves"
		if h := k.healthArgs(); h.EnforcementActive {
			line += ", enforcement proven"
		} else if len(h.Problems) > 0 {
			line += ", enforcement NOT proven: " + h.Problems[0]
		}
	}
	if draining > 0 {
		line += fmt.Sprintf("; %d draining", draining)
	}
	return line
}
