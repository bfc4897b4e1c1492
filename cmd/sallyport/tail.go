package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sallyport/pkg/admin"
	"sallyport/pkg/admin/show"
	"sallyport/pkg/audit"
	"sallyport/pkg/config"
)

// tailFlags are the options of tail.
type tailFlags struct {
	json, follow bool
	lines        int
}

func (e *env) tailCommand() *cobra.Command {
	var f tailFlags
	c := &cobra.Command{
		Use:   "tail [FILE...]",
		Short: "Show audit events",
		Long: `Shows the newest audit events of the running daemon, or those of files that an
exec without a daemon wrote. With --since it shows all since then where you may
read the daemon's file, else those that the daemon still remembers.`,
		Example: `  sallyport tail --follow --verdict deny
  sallyport tail --since 1h --host '*.github.com'
  sallyport tail sallyport-audit.*.jsonl`,
		Args: usageArgs(cobra.ArbitraryArgs),
		RunE: func(c *cobra.Command, args []string) error {
			filter, err := filterOf(c)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				if f.follow {
					return usageError{errors.New("tail: --follow follows the daemon, not a file")}
				}
				for _, name := range args {
					if err := e.tailFile(name, filter, f.json); err != nil {
						return err
					}
				}
				return nil
			}
			if !filter.Since.IsZero() && !c.Flags().Changed("lines") {
				// Everything since then is wanted, and the daemon remembers only the
				// newest; its file has all, for whoever may read it.
				f.lines = admin.MaxRecent
				if path, ok := e.auditFile(c); ok && !f.follow {
					return e.tailFile(path, filter, f.json)
				}
			}
			return e.askDaemon(c, func(ctx context.Context, client *admin.Client) error {
				ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
				defer stop()
				return untilInterrupted(ctx, client.Tail(ctx, filter, f.lines, f.follow, e.printEvent(f.json)))
			})
		},
	}
	c.Flags().BoolVar(&f.json, "json", false, "print the lines as they are in the audit")
	c.Flags().BoolVarP(&f.follow, "follow", "f", false, "go on with each event that is written")
	c.Flags().IntVarP(&f.lines, "lines", "n", 100, "how many of the newest `events` to begin with")
	addFilterFlags(c)
	return c
}

// auditFile gives the file of the configuration if the caller may read it.
func (e *env) auditFile(c *cobra.Command) (string, bool) {
	conf, err := loadConfig(c, config.Enforce)
	if err != nil || !slices.Contains(conf.Audit.Sinks, config.SinkFile) {
		return "", false
	}
	file, err := os.Open(conf.Audit.File.Path)
	if err != nil {
		return "", false
	}
	return conf.Audit.File.Path, file.Close() == nil
}

// printEvent prints one event.
func (e *env) printEvent(asJSON bool) func([]byte, *audit.Event) error {
	return func(line []byte, event *audit.Event) error {
		if asJSON {
			_, err := fmt.Fprintf(e.stdout, "%s\n", line)
			return err
		}
		return show.Event(e.stdout, event, time.Local)
	}
}

// tailFile prints a file with its rotated predecessors.
func (e *env) tailFile(path string, filter *audit.Filter, asJSON bool) error {
	files, err := audit.OpenFiles(path, filter.Since)
	if err != nil {
		return fmt.Errorf("tail: %w", err)
	}
	defer files.Close()
	var printed error
	unreadable := 0
	print := e.printEvent(asJSON)
	err = files.Each(func(line []byte, event *audit.Event) bool {
		if filter.Match(event) {
			printed = print(line, event)
		}
		return printed == nil
	}, func(file string, err *audit.LineError) {
		unreadable++
		fmt.Fprintf(e.stderr, "sallyport: tail: %s: %v\n", file, err)
	})
	if err := errors.Join(err, printed); err != nil {
		return err
	}
	if unreadable > 0 {
		return exitError(exitFailed)
	}
	return nil
}
