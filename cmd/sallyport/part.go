package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"sallyport/pkg/keeper"
	"sallyport/pkg/keeper/store"
	"sallyport/pkg/supervisor"
)

// The parts of the daemon, each a unit of systemd's. Without one `run` is all of
// it but the last.
const (
	partKeeper = "keeper"
	partWorker = "worker"
	partLock   = "lock"
)

func (e *env) runPart(c *cobra.Command, part, path string) error {
	ctx := c.Context()
	switch part {
	case "":
		return e.runDaemon(ctx, path)
	case partKeeper:
		return e.runKeeper(ctx, path)
	case partWorker:
		return e.runWorker(ctx, path)
	case partLock:
		return e.runLock(ctx, path)
	default:
		return wrongUse(c, fmt.Errorf("--part %q: want %s, %s or %s", part, partKeeper, partWorker, partLock))
	}
}

// statusInterval is how often the keeper's line for the service manager is
// brought up to date.
const statusInterval = time.Second

// runKeeper is sallyport-keeper.service.
func (e *env) runKeeper(ctx context.Context, path string) error {
	if os.Geteuid() != 0 {
		return errors.New("run --part keeper: not root: it loads BPF programs and nftables rules")
	}
	stored, err := store.Open(os.Getenv)
	if err != nil {
		return err
	}
	return e.keep(ctx, path, keeper.Options{Apart: true, Store: stored}, e.speakForKeeper)
}

// speakForKeeper tells the service manager how the keeper is, and has it reload and
// end.
func (e *env) speakForKeeper(ctx context.Context, k *kept) error {
	n := &notifier{env: e, log: k.log, watchdog: watchdogInterval(k.log)}
	tick := time.NewTicker(statusInterval)
	defer tick.Stop()
	armed := k.Armed()
	for {
		select {
		case <-armed:
			armed = nil
			n.ready()
		case <-k.reload:
			n.send("RELOADING=1\nMONOTONIC_USEC=" + monotonic())
			// Its errors are in the log, the status and the audit.
			_ = k.Reload()
			n.send(daemon.SdNotifyReady)
		case <-tick.C:
			n.status(k.Summary())
			if k.Watching() {
				n.beat()
			}
		case err := <-k.ended:
			return errorOrNil(err, ctx)
		case <-ctx.Done():
			n.send(daemon.SdNotifyStopping)
			return errorOrNil(<-k.ended, ctx)
		}
	}
}

// runWorker is sallyport.service.
func (e *env) runWorker(ctx context.Context, path string) error {
	if os.Geteuid() == 0 {
		return errors.New("run --part worker: the worker must not be root: its unit says User=sallyport; on a host without systemd use `sallyport run`")
	}
	log := newLogger("info", "json")
	defer log.Sync()
	places, err := keeper.LenientPlaces(path)
	if err != nil {
		log.Warn("configuration: the usual places are assumed", zap.Error(err))
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, unix.SIGHUP)
	defer signal.Stop(reload)
	n := &notifier{env: e, log: log}
	s := supervisor.New(supervisor.Options{
		Argv:     []string{keeper.Internal, keeper.InternalWork, keeper.WorkerSocket(places.RuntimeDir)},
		Notify:   n.send,
		Watchdog: watchdogInterval(log),
		Reload:   reload,
		Log:      log,
	})
	if err := s.Run(ctx); err != nil {
		return fmt.Errorf("run --part worker: %w", err)
	}
	return nil
}

// runLock is sallyport-lock.service: it shuts the gate and leaves it shut.
func (e *env) runLock(ctx context.Context, path string) error {
	if os.Geteuid() != 0 {
		return errors.New("run --part lock: not root: it loads BPF programs and nftables rules")
	}
	log := newLogger("info", "json")
	defer log.Sync()
	places, err := keeper.LenientPlaces(path)
	if err != nil {
		log.Warn("configuration: the gate is shut where it does not say otherwise at the usual places", zap.Error(err))
	}
	if err := keeper.Shut(ctx, e.locked(places).Service(), log); err != nil {
		return fmt.Errorf("run --part lock: the gate is not shut: %w", err)
	}
	fmt.Fprintln(e.stderr, "the gate is shut")
	return nil
}
