// Command vm proves on real Debian machines what a container cannot show: it
// boots them in qemu's software emulation with systemd as PID 1, one for each
// kernel, runs the rows of test/vm/rows inside as root, and prints one line of
// JSON for each kernel and row. Exit 1 if one fails, or if one did not run.
//
// make test-vm runs those of -short, make vm all rows on all kernels. By hand:
//
//	go run ./test/vm -kernels 6.1 -rows 'smoke|install'
//	go run ./test/vm -kernels newest -script /tmp/try.sh
//
// Rows find in /opt/vm what their head asks for; see rows/lib.sh.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kernels are the ones that the image holds, in the order in which they run:
// what the first machine proves, the others need not begin with.
var kernels = []string{"6.1", "6.12", "newest", "5.10"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	failed, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/vm:", err)
	}
	if err != nil || failed > 0 {
		os.Exit(1)
	}
}

// run gives how many rows failed.
func run(ctx context.Context) (failed int, err error) {
	only := flag.String("kernels", strings.Join(kernels, ","), "the `list` of kernels")
	pattern := flag.String("rows", "", "only rows whose name matches this `expression`")
	short := flag.Bool("short", false, "each row only on the kernels that its head names for this")
	script := flag.String("script", "", "this `file` as the only row; what it writes is shown")
	flag.Parse()
	if os.Getuid() != 0 {
		return 0, fmt.Errorf("making the image needs root: sudo make test-vm")
	}
	names, err := regexp.Compile(*pattern)
	if err != nil {
		return 0, err
	}
	wanted := strings.Split(*only, ",")
	for _, k := range wanted {
		if !slices.Contains(kernels, k) {
			return 0, fmt.Errorf("no kernel %q: there are %s", k, strings.Join(kernels, ", "))
		}
	}
	cache := os.Getenv("SALLYPORT_VM_CACHE")
	if cache == "" {
		cache = "/var/cache/sallyport-vm"
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return 0, err
	}
	// One run at a time: more emulated machines than processors fail by their time
	// limits. The lock ends with the process.
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return 0, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	image, err := imageIn(ctx, cache)
	if err != nil {
		return 0, err
	}
	rows, err := readRows("test/vm/rows")
	if err != nil {
		return 0, err
	}
	if *script != "" {
		one, err := readRow(*script)
		if err != nil {
			return 0, err
		}
		one.Kernels, one.Short, rows, names = kernels, kernels, []row{one}, regexp.MustCompile("")
	}
	payloads, err := os.MkdirTemp("", "sallyport-vm-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(payloads)
	var stories, others []machine
	for _, kernel := range wanted {
		told, other := apart(choose(rows, kernel, names, *short))
		for i, chosen := range [][]row{told, other} {
			if len(chosen) == 0 {
				continue
			}
			m := machine{image: image, kernel: kernel, payload: filepath.Join(payloads, kernel+"-"+chosen[0].Name+".tar"), rows: chosen, verbose: *script != ""}
			if err := pack(ctx, payloads, m.payload, chosen); err != nil {
				return 0, err
			}
			if m.yields = i == 1; m.yields {
				others = append(others, m)
			} else {
				stories = append(stories, m)
			}
		}
	}
	if len(stories)+len(others) == 0 {
		return 0, fmt.Errorf("no row of that name for that kernel: see test/vm/rows")
	}
	return runAll(ctx, stories, others), ctx.Err()
}

// runAll runs the stories one after the other, and what stands for itself beside
// them with what they leave of the processors: an emulated machine takes one. It
// gives how many rows failed.
func runAll(ctx context.Context, stories, others []machine) int {
	var failed atomic.Int64
	told, queue := queued(stories), queued(others)
	var beside sync.WaitGroup
	if runtime.NumCPU() > 1 {
		beside.Go(func() { failed.Add(inTurn(ctx, queue)) })
	}
	failed.Add(inTurn(ctx, told))
	failed.Add(inTurn(ctx, queue))
	beside.Wait()
	return int(failed.Load())
}

// queued gives machines to whoever comes for the next.
func queued(machines []machine) <-chan machine {
	queue := make(chan machine, len(machines))
	for _, m := range machines {
		queue <- m
	}
	close(queue)
	return queue
}

// inTurn runs machines one after the other and gives how many rows failed.
func inTurn(ctx context.Context, machines <-chan machine) (failed int64) {
	for m := range machines {
		start := time.Now()
		for _, v := range m.run(ctx) {
			if !v.OK {
				failed++
			}
		}
		fmt.Fprintf(os.Stderr, "test/vm: kernel %s: the rows from %s on took %s\n", m.kernel, m.rows[0].Name, time.Since(start).Round(time.Second))
	}
	return failed
}

// imageTries is how often the image is made: Debian's archive may change between the
// reading of an index and that of what it names.
const imageTries = 3

// imageIn makes the image where the cache does not have it, and gives its
// directory.
func imageIn(ctx context.Context, cache string) (string, error) {
	for try := 1; ; try++ {
		c := exec.CommandContext(ctx, "test/vm/image", cache)
		c.Stderr = os.Stderr
		out, err := c.Output()
		if err == nil {
			return strings.TrimSpace(string(out)), nil
		}
		if try == imageTries || ctx.Err() != nil {
			return "", fmt.Errorf("test/vm/image: %w", err)
		}
		fmt.Fprintf(os.Stderr, "test/vm/image: %v: once more\n", err)
	}
}

// A verdict is what is printed for one row on one kernel.
type verdict struct {
	Kernel  string             `json:"kernel"`
	Release string             `json:"release,omitempty"`
	Row     string             `json:"row"`
	OK      bool               `json:"ok"`
	Seconds float64            `json:"seconds"`
	Detail  string             `json:"detail,omitempty"`
	Figures map[string]float64 `json:"figures,omitempty"`
}

func (v verdict) print() {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only a figure that is no number could do it, and those are parsed
	}
	fmt.Println(string(b))
}
