package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper"
)

// A kept is a keeper that runs.
type kept struct {
	*keeper.Keeper
	log *zap.Logger
	// reload brings SIGHUP, ended how the keeper ended: once.
	reload <-chan os.Signal
	ended  <-chan error
}

// keep opens the service's keeper, runs it, and leaves the loop that speaks for it
// to serve, which returns when ended has brought its value. The context of both ends
// with SIGTERM and SIGINT. Of o, instance, configuration, version and log are set
// here.
func (e *env) keep(ctx context.Context, path string, o keeper.Options, serve func(context.Context, *kept) error) error {
	conf, _, err := keeper.LoadConfig(path, config.Enforce)
	if err != nil {
		return configError(err)
	}
	log := newLogger(string(conf.Log.Level), string(conf.Log.Format))
	defer log.Sync()
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	places := e.locked(keeper.PlacesOf(conf))
	if err := places.Sweep(ctx); err != nil {
		log.Warn("leftovers of an earlier exec", zap.Error(err))
	}
	o.Instance, o.ConfigPath, o.Version, o.Log = places.Service(), path, version, log
	k, err := keeper.Open(o)
	if err != nil {
		return fmt.Errorf("run: %w", mistaken(err))
	}
	defer k.Close()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, unix.SIGHUP)
	defer signal.Stop(reload)
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	return serve(ctx, &kept{Keeper: k, log: log, reload: reload, ended: ended})
}
