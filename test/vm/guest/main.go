// Command guest is the inside of test/vm: `guest rows` runs the rows and
// reports them, `guest internet` is what lies beyond the machine's cable,
// `guest count` what has come there, and `guest load` and `guest get` are programs
// behind the gate.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
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
		return fmt.Errorf("usage: guest rows|internet|count|get|load [flags]")
	}
	switch args[0] {
	case "rows":
		return runRows(ctx)
	case "internet":
		return runInternet(ctx, args[1:])
	case "count":
		return showCounts()
	case "get":
		return get(ctx, args[1:])
	case "load":
		return runLoad(ctx, args[1:])
	default:
		return fmt.Errorf("unknown command %q", args[0])
	}
}

// get writes what is at a URL. In a container of nothing but static programs it is
// the one that can resolve names.
func get(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: guest get URL")
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", answer.StatusCode)
	}
	return nil
}
