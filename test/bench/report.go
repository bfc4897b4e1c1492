package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// writeTable prints the table in Markdown and says whether every bar holds.
func writeTable(w io.Writer, all []comparison) (met bool) {
	met = true
	fmt.Fprint(w, "| case | measured: median (95 % interval) | bar | aim | against | verdict |\n|---|---|---|---|---|---|\n")
	var failures []string
	for i := range all {
		for _, r := range all[i].rows {
			result, v := r.result(&all[i])
			if v == barMissed {
				met = false
			}
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s |\n", r.title, result, r.bar.limitText(), r.bar.aimText(), r.against, v)
		}
		if err := all[i].failure; err != nil {
			failures = append(failures, oneLine(err))
		}
	}
	for _, f := range failures {
		fmt.Fprintf(w, "\nNot measured: %s.\n", f)
	}
	return met
}

// result gives a row's middle column and its verdict. A case that failed at any
// time has missed: what it measured before is no measurement.
func (r *row) result(c *comparison) (string, verdict) {
	if c.failure != nil {
		return "failed, see below", barMissed
	}
	v := r.values(c.samples)
	if len(v) == 0 {
		return "not measured", barMissed
	}
	e := estimateOf(v)
	return fmt.Sprintf("%s (%.*f–%.*f)", r.bar.number(e.median), r.bar.digits, e.low, r.bar.digits, e.high), r.bar.judge(e)
}

// oneLine gives the first of what may be many connections' complaints.
func oneLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// writeFigures prints what the ratios come from: medians over the rounds.
func writeFigures(w io.Writer, all []comparison) {
	for i := range all {
		c := &all[i]
		if c.failure != nil {
			continue
		}
		fmt.Fprintf(w, "\n### %s (`-case %s`)\n\n| system |", c.title, c.name)
		for _, f := range c.figures {
			fmt.Fprintf(w, " %s |", f.name)
		}
		fmt.Fprintf(w, " the client's leg |\n|---|%s---|\n", strings.Repeat("---|", len(c.figures)))
		for _, s := range c.systems {
			samples := c.samples[s.name]
			if len(samples) == 0 {
				continue
			}
			fmt.Fprintf(w, "| %s |", s.name)
			for _, f := range c.figures {
				fmt.Fprintf(w, " "+f.format+" |", estimateOf(values(samples, f)).median)
			}
			leg := samples[0].TLS
			if leg == "" {
				leg = "–"
			}
			fmt.Fprintf(w, " %s |\n", leg)
		}
	}
}

// machineText says what was measured and where.
func machineText(o *options) string {
	var u unix.Utsname
	unix.Uname(&u)
	model := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	sallyport, _ := exec.Command(o.binary, "version").Output()
	return fmt.Sprintf("%s, %d processors, Linux %s, %s, %s, %s, %s, %s", model, runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]),
		version(o.nginx, "-v"), version(o.haproxy, "-v"), version(o.sslsplit, "-V"), runtime.Version(), strings.TrimSpace(string(sallyport)))
}
