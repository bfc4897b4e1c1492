// Command guest is the inside of test/vm: `guest rows` runs the rows and
// reports them, `guest internet` is what lies beyond the machine's cable,
// `guest count` what has come there, and `guest load` a program behind the gate.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: guest rows|internet|count|load [flags]")
	}
	switch args[0] {
	case "rows":
		return runRows(ctx)
	case "internet":
		return runInternet(ctx, args[1:])
	case "count":
		return showCounts()
	case "load":
		return runLoad(ctx, args[1:])
	default:
		return fmt.Errorf("unknown command %q", args[0])
	}
}
