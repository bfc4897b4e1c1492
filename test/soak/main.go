// Command soak is both ends of the soak test: `soak origin` is the server on
// the internet, `soak load` is programs behind the gate. test/e2e starts them
// around the real binary, kills some, and counts what is left at the end.
//
// Every body is a stream that both ends compute from a number in the URL, so
// that one wrong, missing or foreign byte is seen. Every request has a path of
// its own; what became of it is a line in the file -results: the path, and
//
//	done     answered as it had to be: the audit has exactly one event
//	broken   broken off on purpose: the audit has one event at most
//	hidden   went through a tunnel: the audit has none
//	failed   something is wrong
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: soak origin|load [flags]")
	}
	flags := flag.NewFlagSet(args[0], flag.ExitOnError)
	switch args[0] {
	case "origin":
		var o origin
		var certificates string
		flags.StringVar(&o.secure, "tls", ":9460", "`address` of HTTPS")
		flags.StringVar(&o.clear, "clear", ":9461", "`address` of HTTP")
		flags.StringVar(&certificates, "certificates", "", "`FILES`: certificate:key, separated by commas")
		flags.Parse(args[1:])
		o.certificates = strings.Split(certificates, ",")
		return o.serve(ctx)
	case "load":
		var l load
		flags.StringVar(&l.name, "name", "l", "a `name` that no other loader has")
		flags.Uint64Var(&l.seed, "seed", 1, "what the loader does follows from this `number`")
		flags.IntVar(&l.workers, "connections", 100, "how `many` connections are open at a time, about")
		flags.DurationVar(&l.duration, "duration", 10*time.Second, "for how `long` new requests are made")
		flags.StringVar(&l.results, "results", "", "the `file` for what became of each request")
		flags.Parse(args[1:])
		return l.run(ctx)
	default:
		return fmt.Errorf("unknown command %q", args[0])
	}
}
