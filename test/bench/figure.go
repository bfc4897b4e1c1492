package main

import "time"

// A sample is one measurement of one system.
type sample struct {
	result
	cpu      time.Duration // of the system's processes
	keeper   time.Duration // the part of sallyport's privileged half
	peak     int64         // most resident memory seen, in bytes; bulk only
	accepted int           // connections that the origin took in; connect only

	start, filled, perConnection float64 // memory, in bytes; idle only
}

// A figure is one number of a sample.
type figure struct {
	name, format string
	of           func(*sample) float64
}

var (
	rate          = figure{"requests/s", "%.0f", func(x *sample) float64 { return float64(x.Requests) / x.Wall.Seconds() }}
	p50           = figure{"p50 µs", "%.1f", func(x *sample) float64 { return float64(x.P50.Nanoseconds()) / 1e3 }}
	p99           = figure{"p99 µs", "%.1f", func(x *sample) float64 { return float64(x.P99.Nanoseconds()) / 1e3 }}
	cpu           = figure{"CPU µs/request", "%.1f", func(x *sample) float64 { return float64(x.cpu.Nanoseconds()) / 1e3 / float64(x.Requests) }}
	keeperCPU     = figure{"of it keeper", "%.1f", func(x *sample) float64 { return float64(x.keeper.Nanoseconds()) / 1e3 / float64(x.Requests) }}
	speed         = figure{"MB/s", "%.0f", func(x *sample) float64 { return float64(x.Bytes) / 1e6 / x.Wall.Seconds() }}
	cpuPerGB      = figure{"CPU s/GB", "%.3f", func(x *sample) float64 { return x.cpu.Seconds() / (float64(x.Bytes) / 1e9) }}
	peak          = figure{"peak RSS MiB", "%.1f", func(x *sample) float64 { return float64(x.peak) / (1 << 20) }}
	accepted      = figure{"upstream connections/request", "%.3f", func(x *sample) float64 { return float64(x.accepted) / float64(x.All) }}
	startRSS      = figure{"RSS at the start MiB", "%.1f", func(x *sample) float64 { return x.start / (1 << 20) }}
	filledRSS     = figure{"RSS with 1,000 idle MiB", "%.1f", func(x *sample) float64 { return x.filled / (1 << 20) }}
	perConnection = figure{"KB per idle connection", "%.1f", func(x *sample) float64 { return x.perConnection / 1000 }}
)

func values(all []sample, f figure) []float64 {
	out := make([]float64, len(all))
	for i := range all {
		out[i] = f.of(&all[i])
	}
	return out
}

// ratioOf, differenceOf and valueOf make the values of a row.
func ratioOf(f figure, a, b string) func(map[string][]sample) []float64 {
	return func(s map[string][]sample) []float64 { return ratios(values(s[a], f), values(s[b], f)) }
}

func differenceOf(f figure, a, b string) func(map[string][]sample) []float64 {
	return func(s map[string][]sample) []float64 { return differences(values(s[a], f), values(s[b], f)) }
}

func valueOf(f figure, a string) func(map[string][]sample) []float64 {
	return func(s map[string][]sample) []float64 { return values(s[a], f) }
}

func scaled(by float64, of func(map[string][]sample) []float64) func(map[string][]sample) []float64 {
	return func(s map[string][]sample) []float64 {
		out := of(s)
		for i := range out {
			out[i] *= by
		}
		return out
	}
}
