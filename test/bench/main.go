package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	binary, nginx, only, report, hold string
	rounds, connections               int
	window                            time.Duration
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == clientArgument {
		if err := serveJobs(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench client:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.binary, "sallyport", "bin/sallyport", "the `binary` to measure")
	flag.StringVar(&o.nginx, "nginx", "nginx", "the nginx to compare with")
	flag.IntVar(&o.rounds, "rounds", 7, "rounds; at least 6 for an interval of 95 %")
	flag.IntVar(&o.connections, "connections", 32, "client connections of the keep-alive case")
	flag.DurationVar(&o.window, "window", 1500*time.Millisecond, "length of one measurement")
	flag.StringVar(&o.only, "case", "", "measure only this `case`: keepalive, connect, bulk or memory")
	flag.StringVar(&o.report, "report", "", "also write the tables to this `file`")
	flag.StringVar(&o.hold, "hold", "", "no measurements: load this `system` for -window (with a profiler on it)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run sets everything up, measures and prints.
func run(ctx context.Context, o *options) (err error) {
	if os.Getuid() != 0 {
		return fmt.Errorf("not root: namespaces and sallyport itself need it; run it with sudo")
	}
	cpus, err := twoProcessors()
	if err != nil {
		return err
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	before := loadAverage()
	m, err := newMachine(cpus, o)
	if err != nil {
		return err
	}
	defer m.close()
	r, err := m.measure(ctx, o)
	if err != nil {
		return err
	}
	if o.hold != "" {
		return nil
	}
	var out strings.Builder
	fmt.Fprintf(&out, "    %s\n\n", strings.Join(commandLine(o), " "))
	fmt.Fprintf(&out, "%s; load average %s before, %s after.\n\n", machineText(o), before, loadAverage())
	r.write(&out)
	os.Stdout.WriteString(out.String())
	if o.report != "" {
		return os.WriteFile(o.report, []byte(out.String()), 0o644)
	}
	return nil
}

// commandLine is the command that gives the same measurements again.
func commandLine(o *options) []string {
	line := []string{"scripts/bench", fmt.Sprintf("-rounds=%d -window=%s -connections=%d", o.rounds, o.window, o.connections)}
	if o.only != "" {
		line = append(line, "-case="+o.only)
	}
	return line
}

// encode writes one message of the conversation with a client.
func encode(w interface{ Write([]byte) (int, error) }, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
