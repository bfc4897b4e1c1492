package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// A notifier tells the service manager, or else the person.
type notifier struct {
	env      *env
	log      *zap.Logger
	watchdog time.Duration
	last     time.Time
	said     string
}

func (n *notifier) send(state string) {
	sent, err := daemon.SdNotify(false, strings.TrimSuffix(state, "\n"))
	if err != nil {
		n.log.Warn("sd_notify", zap.Error(err))
	}
	if !sent && strings.Contains(state, daemon.SdNotifyReady) {
		fmt.Fprintln(n.env.stderr, "ready")
	}
}

func (n *notifier) ready() { n.send(daemon.SdNotifyReady) }

// status says a line once.
func (n *notifier) status(line string) {
	if line == n.said {
		return
	}
	n.said = line
	n.send("STATUS=" + line)
}

// beat says that we live, often enough.
func (n *notifier) beat() {
	if n.watchdog == 0 || time.Since(n.last) < n.watchdog/3 {
		return
	}
	n.last = time.Now()
	n.send(daemon.SdNotifyWatchdog)
}

// watchdogInterval is how often the service manager wants to hear of us, 0 for
// never.
func watchdogInterval(log *zap.Logger) time.Duration {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("watchdog", zap.Error(err))
		return 0
	}
	return d
}

// monotonic is the clock of RELOADING=1 (sd_notify(3)), in µs.
func monotonic() string {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return "0"
	}
	return fmt.Sprint(ts.Nano() / 1000)
}
