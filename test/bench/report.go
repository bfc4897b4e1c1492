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

// A report is everything that was measured.
type report struct {
	samples map[string]map[string][]sample // case → system → by round
	memory  []memoryFigure
}

// A memoryFigure is the resident memory of a fresh proxy with ten idle
// connections, and what each further one added, in bytes.
type memoryFigure struct {
	system        string
	base, perConn int64
}

func (r *report) add(kind, system string, x sample) {
	if r.samples[kind] == nil {
		r.samples[kind] = make(map[string][]sample)
	}
	r.samples[kind][system] = append(r.samples[kind][system], x)
}

// A figure is one column.
type figure struct {
	name, format string
	of           func(*sample) float64
}

var (
	rate      = figure{"requests/s", "%.0f", func(x *sample) float64 { return float64(x.Requests) / x.Wall.Seconds() }}
	p50       = figure{"p50 µs", "%.0f", func(x *sample) float64 { return float64(x.P50.Nanoseconds()) / 1e3 }}
	p99       = figure{"p99 µs", "%.0f", func(x *sample) float64 { return float64(x.P99.Nanoseconds()) / 1e3 }}
	cpu       = figure{"CPU µs/request", "%.1f", func(x *sample) float64 { return float64(x.cpu.Nanoseconds()) / 1e3 / float64(x.Requests) }}
	keeperCPU = figure{"keeper CPU %", "%.1f", func(x *sample) float64 { return 100 * x.keeper.Seconds() / x.Wall.Seconds() }}
	speed     = figure{"MB/s", "%.0f", func(x *sample) float64 { return float64(x.Bytes) / 1e6 / x.Wall.Seconds() }}
	cpuPerGB  = figure{"CPU s/GB", "%.2f", func(x *sample) float64 { return x.cpu.Seconds() / (float64(x.Bytes) / 1e9) }}
	peak      = figure{"peak RSS MiB", "%.1f", func(x *sample) float64 { return float64(x.peak) / (1 << 20) }}
)

func values(all []sample, f figure) []float64 {
	out := make([]float64, len(all))
	for i := range all {
		out[i] = f.of(&all[i])
	}
	return out
}

// write prints the tables in Markdown.
func (r *report) write(w io.Writer) {
	r.table(w, keepAlive, "1 KB answers, HTTP/1.1 keep-alive over TLS 1.3", []figure{rate, p50, p99, cpu, keeperCPU}, []figure{cpu, rate, p50, p99})
	r.table(w, connect, "A connection and a full handshake for each 1 KB answer", []figure{rate, p50, p99, cpu, keeperCPU}, []figure{cpu, rate, p50, p99})
	r.table(w, bulk, "One body of 256 MB", []figure{speed, cpuPerGB, peak}, []figure{cpuPerGB, speed})
	if len(r.memory) > 0 {
		fmt.Fprintf(w, "### Memory of %d idle connections on fresh processes\n\n| system | RSS with 10 idle MiB | KiB per idle connection |\n|---|---|---|\n", idleConnections)
		for _, f := range r.memory {
			fmt.Fprintf(w, "| %s | %.1f | %.1f |\n", f.system, float64(f.base)/(1<<20), float64(f.perConn)/(1<<10))
		}
		fmt.Fprintln(w)
	}
}

func (r *report) table(w io.Writer, kind, title string, figures, compared []figure) {
	systems := r.samples[kind]
	if systems == nil {
		return
	}
	order := []string{direct, nginxName, inspect, tunnel}
	fmt.Fprintf(w, "### %s\n\n| system |", title)
	for _, f := range figures {
		fmt.Fprintf(w, " %s |", f.name)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(figures)))
	for _, s := range order {
		fmt.Fprintf(w, "| %s |", s)
		for _, f := range figures {
			fmt.Fprintf(w, " "+f.format+" |", estimateOf(values(systems[s], f)).median)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "\n| ratio, median of %d rounds (95 %% interval) |", len(systems[nginxName]))
	for _, f := range compared {
		fmt.Fprintf(w, " %s |", f.name)
	}
	fmt.Fprintf(w, "\n|---|%s\n", strings.Repeat("---|", len(compared)))
	for _, pair := range [][2]string{{inspect, nginxName}, {tunnel, nginxName}, {tunnel, inspect}, {inspect, direct}} {
		fmt.Fprintf(w, "| %s / %s |", pair[0], pair[1])
		for _, f := range compared {
			e := estimateOf(ratios(values(systems[pair[0]], f), values(systems[pair[1]], f)))
			if e.median != e.median { // no proxy, no processor time
				fmt.Fprint(w, " – |")
				continue
			}
			fmt.Fprintf(w, " %.2f (%.2f–%.2f) |", e.median, e.low, e.high)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
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
	version, _ := exec.Command(o.nginx, "-v").CombinedOutput()
	_, nginx, _ := strings.Cut(strings.TrimSpace(string(version)), ": ")
	sallyport, _ := exec.Command(o.binary, "version").Output()
	return fmt.Sprintf("%s, %d processors, Linux %s, %s, %s, %s", model, runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]),
		strings.TrimPrefix(nginx, "version: "), runtime.Version(), strings.TrimSpace(string(sallyport)))
}
