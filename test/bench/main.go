package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	binary, nginx, haproxy, sslsplit string
	cases, report, update, hold      string
	rounds, connections              int
	window                           time.Duration
}

func main() {
	if len(os.Args) == 2 {
		side := map[string]func() error{
			clientArgument: func() error { return serveJobs(os.Stdin, os.Stdout) },
			originArgument: serveOrigin,
		}[os.Args[1]]
		if side != nil {
			if err := side(); err != nil {
				fmt.Fprintln(os.Stderr, "bench", os.Args[1]+":", err)
				os.Exit(1)
			}
			return
		}
	}
	var o options
	flag.StringVar(&o.binary, "sallyport", "bin/sallyport", "the `binary` to measure")
	flag.StringVar(&o.nginx, "nginx", "nginx", "the nginx to compare with")
	flag.StringVar(&o.haproxy, "haproxy", "haproxy", "the HAProxy to compare with")
	flag.StringVar(&o.sslsplit, "sslsplit", "sslsplit", "the sslsplit to compare with")
	flag.IntVar(&o.rounds, "rounds", 9, "rounds; at least 6 for an interval of 95 %")
	flag.IntVar(&o.connections, "connections", 32, "client connections of the keep-alive cases")
	flag.DurationVar(&o.window, "window", 1200*time.Millisecond, "length of one measurement")
	flag.StringVar(&o.cases, "case", "", "only these `cases`, separated by commas: "+strings.Join(caseNames[:], " "))
	flag.StringVar(&o.report, "report", "", "also write what is printed to this `file`")
	flag.StringVar(&o.update, "update", "", "write what is printed into the chapter \"Latest run\" of this `file`")
	flag.StringVar(&o.hold, "hold", "", "no table: load this `system` of the one -case for -window (with a profiler on it)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// errMissed is the end of a run whose table has a missed bar.
var errMissed = errors.New("a bar is missed")

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
	wanted, err := o.wanted()
	if err != nil {
		return err
	}
	before := loadAverage()
	m, err := newMachine(cpus, o)
	if err != nil {
		return err
	}
	defer m.close()
	all, err := m.setUp(wanted)
	if err != nil {
		return err
	}
	if o.hold != "" {
		return m.load(ctx, &all[0], o)
	}
	begin := time.Now()
	if err := m.measure(ctx, all, o.rounds, func(s string) { fmt.Fprintln(os.Stderr, s) }); err != nil {
		return err
	}
	logged := audit(all, 5*time.Second)
	var out strings.Builder
	fmt.Fprintf(&out, "    %s\n\n%s; load average %s before, %s after; %s.\n\n", strings.Join(commandLine(o), " "), machineText(o), before, loadAverage(), time.Since(begin).Round(time.Second))
	met := writeTable(&out, all)
	if logged != nil {
		fmt.Fprintf(&out, "\nThe comparison does not count: %s.\n", logged)
	}
	writeFigures(&out, all)
	os.Stdout.WriteString(out.String())
	if o.report != "" {
		err = os.WriteFile(o.report, []byte(out.String()), 0o644)
	}
	if o.update != "" {
		err = errors.Join(err, updateChapter(o.update, out.String()))
	}
	if !met {
		err = errors.Join(err, errMissed)
	}
	return errors.Join(err, logged)
}

// wanted gives the cases that the command line names.
func (o *options) wanted() ([]string, error) {
	if o.cases == "" {
		if o.hold != "" {
			o.cases = caseHTTP1
			return []string{caseHTTP1}, nil
		}
		return caseNames[:], nil
	}
	names := strings.Split(o.cases, ",")
	for _, n := range names {
		if !slices.Contains(caseNames[:], n) {
			return nil, fmt.Errorf("unknown case %q: %s", n, strings.Join(caseNames[:], ", "))
		}
	}
	if o.hold != "" && len(names) != 1 {
		return nil, errors.New("-hold needs one case")
	}
	return names, nil
}

// setUp starts everybody that the wanted cases need.
func (m *machine) setUp(wanted []string) ([]comparison, error) {
	if err := m.furnish(); err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	if err := m.startOrigin(); err != nil {
		return nil, fmt.Errorf("origin: %w", err)
	}
	p, err := m.startPeers()
	if err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	m.peers = p
	g, err := m.startGate("few", fewRules)
	if err != nil {
		return nil, fmt.Errorf("sallyport: %w", err)
	}
	var big *gate
	if slices.Contains(wanted, caseRules) {
		if big, err = m.startGate("many", manyRules); err != nil {
			return nil, fmt.Errorf("sallyport with %d rules: %w", manyRules, err)
		}
	}
	all := slices.DeleteFunc(m.comparisons(p, g, big, m.options), func(c comparison) bool { return !slices.Contains(wanted, c.name) })
	for i := range all {
		all[i].samples = make(map[string][]sample)
	}
	return all, nil
}

// commandLine is the command that gives the same measurements again.
func commandLine(o *options) []string {
	line := []string{"scripts/bench", fmt.Sprintf("-rounds=%d -window=%s -connections=%d", o.rounds, o.window, o.connections)}
	if o.cases != "" {
		line = append(line, "-case="+o.cases)
	}
	return line
}
