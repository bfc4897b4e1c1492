package agent

import (
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/keeper/protocol"
)

// settleTime bounds how long giving up the listeners may take: whoever was
// accepted last has to be named by the keeper, which takes milliseconds, but on a
// starved host. With leaveTimeout it is less than whoever asked for it waits.
const settleTime = 6 * time.Second

const _ = uint(protocol.YieldTimeout - settleTime - leaveTimeout)

// yield gives up everything by which work comes in, now. What was accepted goes
// on until stop.
func (w *worker) yield() {
	w.proxy.Yield()
	w.resolver.Yield()
	// stop is not called yet and sets this once more.
	w.cancel()
	for end := time.Now().Add(settleTime); !w.proxy.Settled(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.log.Warn("listeners given up while it is not known of everybody who connected")
			break
		}
	}
	// From here on the file of counters is the next worker's. What connections that
	// drain are still admitted is counted nowhere else.
	if err := w.stages.Close(); err != nil {
		w.log.Warn("stages", zap.Error(err))
	}
}

// drainTime is how long running exchanges may go on.
func (w *worker) drainTime() time.Duration { return w.config.Load().config.Timeouts.Drain }
