// Command vm proves on real Debian machines what a container cannot show: it
// boots them in qemu's software emulation with systemd as PID 1, one for each
// kernel, runs the rows of test/vm/rows inside as root, and prints one line of
// JSON for each kernel and row. Exit 1 if one fails, or if one did not run.
//
// make test-vm runs all rows on all kernels. By hand:
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
	"strings"
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
	script := flag.String("script", "", "this `file` as the only row; what it writes is shown")
	flag.Parse()
	if os.Getuid() != 0 {
		return 0, fmt.Errorf("making the image needs root: sudo make test-vm")
	}
	names, err := regexp.Compile(*pattern)
	if err != nil {
		return 0, err
	}
	cache := os.Getenv("SALLYPORT_VM_CACHE")
	if cache == "" {
		cache = "/var/cache/sallyport-vm"
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return 0, err
	}
	// One machine at a time: two emulated ones on few processors fail by their
	// time limits. The lock ends with the process.
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
		one.Kernels, rows, names = kernels, []row{one}, regexp.MustCompile("")
	}
	payloads, err := os.MkdirTemp("", "sallyport-vm-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(payloads)
	ran := 0
	for kernel := range strings.SplitSeq(*only, ",") {
		chosen := choose(rows, kernel, names)
		if len(chosen) == 0 {
			continue
		}
		ran += len(chosen)
		payload := filepath.Join(payloads, kernel+".tar")
		if err := pack(ctx, payloads, payload, chosen); err != nil {
			return failed, err
		}
		m := machine{image: image, kernel: kernel, payload: payload, rows: chosen, verbose: *script != ""}
		start := time.Now()
		for _, v := range m.run(ctx) {
			if !v.OK {
				failed++
			}
		}
		fmt.Fprintf(os.Stderr, "test/vm: kernel %s took %s\n", kernel, time.Since(start).Round(time.Second))
		if ctx.Err() != nil {
			return failed, ctx.Err()
		}
	}
	if ran == 0 {
		return failed, fmt.Errorf("no row of that name for that kernel: see test/vm/rows")
	}
	return failed, nil
}

// imageIn makes the image where the cache does not have it, and gives its
// directory.
func imageIn(ctx context.Context, cache string) (string, error) {
	c := exec.CommandContext(ctx, "test/vm/image", cache)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("test/vm/image: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
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
