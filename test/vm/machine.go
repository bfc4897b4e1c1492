package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// bootTime is how long a machine may take from power to its first row, and
	// again after a reboot.
	bootTime = 3 * time.Minute
	// bootAttempts is how often a machine may hang before its first row: now and
	// then an emulated processor never answers the other. It is no fault of what
	// is tested, which is not there yet.
	bootAttempts = 3
	// hung begins why a machine was given up that said nothing for too long; stuck
	// is the whole of it where that was before its first row.
	hung  = "the machine hung while "
	stuck = hung + booting
	// booting is what a machine does until it starts a row.
	booting = "booting"
	// haltTime is how long it may take from the last row to power off.
	haltTime = time.Minute
	// grace is what a row may take beyond its time limit: the guest ends it.
	grace = 30 * time.Second
	// consoleKept is how much of a console's end is shown, in bytes.
	consoleKept = 16 << 10
)

// A machine is one boot, or several where a row reboots, of one kernel.
type machine struct {
	image, kernel, payload string
	rows                   []row
	verbose                bool
	// yields: whoever else wants a processor comes first. A story has bounds in
	// time, a table of attacks has none.
	yields bool
}

// A report is a line that the guest writes to its second serial port.
type report struct {
	Event   string             `json:"event"` // start | reboot | end | halt
	Row     string             `json:"row"`
	OK      bool               `json:"ok"`
	Seconds float64            `json:"seconds"`
	Detail  string             `json:"detail"`
	Figures map[string]float64 `json:"figures"`
	Log     string             `json:"log"` // the end of what the row and the services wrote
}

// run boots the machine and prints and gives a verdict for each row. A row that
// the machine did not come to has failed.
func (m machine) run(ctx context.Context) []verdict {
	release, err := os.ReadFile(filepath.Join(m.image, m.kernel, "release"))
	verdicts, why := []verdict(nil), ""
	add := func(v verdict) {
		v.Kernel, v.Release = m.kernel, strings.TrimSpace(string(release))
		v.print()
		verdicts = append(verdicts, v)
	}
	if err != nil {
		why = err.Error()
	} else {
		why = m.boot(ctx, add)
		for range bootAttempts - 1 {
			if why != stuck || ctx.Err() != nil {
				break
			}
			why = m.boot(ctx, add)
		}
	}
	for _, r := range m.rows[len(verdicts):] {
		add(verdict{Row: r.Name, Detail: "did not run: " + why})
	}
	return verdicts
}

// boot runs the machine once, adds a verdict for each row that came to its end, and
// gives why the machine ended.
func (m machine) boot(ctx context.Context, add func(verdict)) string {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := exec.CommandContext(ctx, "qemu-system-x86_64",
		// One processor: of two that are emulated one loses an interrupt of the other's
		// now and then, and both wait for ever.
		// Not -cpu max: what qemu emulates of AVX spoils a TLS record now and then.
		"-accel", "tcg,thread=multi", "-cpu", "Westmere,+rdrand", "-m", "2048",
		"-nodefaults", "-no-user-config", "-display", "none",
		"-kernel", filepath.Join(m.image, m.kernel, "vmlinuz"), "-initrd", filepath.Join(m.image, m.kernel, "initrd"),
		// With page tables of its own for the kernel each system call empties the
		// emulated TLB, and takes twenty times as long.
		"-append", "console=ttyS0 root=/dev/vda rw quiet systemd.show_status=0 systemd.journald.forward_to_console=0 mitigations=off",
		// What is written goes to a file that has no name and ends with qemu.
		"-drive", "if=none,id=root,format=raw,cache=unsafe,snapshot=on,file="+filepath.Join(m.image, "root.ext4"), "-device", "virtio-blk-pci,drive=root",
		"-drive", "if=none,id=payload,format=raw,readonly=on,file="+m.payload, "-device", "virtio-blk-pci,drive=payload",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", "pipe,id=reports,path="+m.payload+".reports", "-serial", "chardev:reports")
	pipe, err := reportPipe(m.payload + ".reports")
	if err != nil {
		return err.Error()
	}
	defer pipe.Close()
	console := &tail{max: consoleKept, verbose: m.verbose}
	c.Stdout, c.Stderr = console, console
	if err := c.Start(); err != nil {
		return fmt.Sprintf("%v: scripts/setup vm installs it", err)
	}
	if m.yields {
		// Its threads to come have it from this one.
		if err := unix.Setpriority(unix.PRIO_PROCESS, c.Process.Pid, 15); err != nil {
			cancel()
			c.Wait()
			return err.Error()
		}
	}
	lines := make(chan report)
	go readReports(ctx, pipe, lines)
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()

	limits := map[string]time.Duration{}
	for _, r := range m.rows {
		limits[r.Name] = r.Timeout
	}
	doing := booting
	timer := time.NewTimer(bootTime)
	defer timer.Stop()
	panicked := time.NewTicker(time.Second)
	defer panicked.Stop()
	stop := func(why string) string {
		fmt.Fprintf(os.Stderr, "test/vm: kernel %s: %s; the console's end:\n%s\n", m.kernel, why, console)
		cancel()
		<-ended
		return why
	}
	for {
		select {
		case r := <-lines:
			switch r.Event {
			case "start":
				doing = "row " + r.Row
				timer.Reset(limits[r.Row] + grace)
			case "reboot":
				doing = "rebooting in row " + r.Row
				timer.Reset(bootTime + haltTime)
			case "end":
				doing = "between rows"
				timer.Reset(haltTime)
				add(verdict{Row: r.Row, OK: r.OK, Seconds: r.Seconds, Detail: r.Detail, Figures: r.Figures})
				if !r.OK {
					fmt.Fprintf(os.Stderr, "test/vm: kernel %s: row %s failed; the end of its log:\n%s\n", m.kernel, r.Row, r.Log)
				}
			case "halt":
				doing = "halting"
				timer.Reset(haltTime)
			}
		case <-panicked.C:
			switch said := console.String(); {
			case strings.Contains(said, "Kernel panic"):
				return stop("kernel panic while " + doing)
			case doing == booting && strings.Contains(said, "detected stalls on CPUs"):
				return stop(stuck)
			}
		case <-timer.C:
			return stop(hung + doing)
		case err := <-ended:
			ended <- err
			if doing != "halting" {
				return stop(fmt.Sprintf("qemu ended while %s: %v", doing, err))
			}
			return "the machine halted"
		case <-ctx.Done():
			return stop(ctx.Err().Error())
		}
	}
}

// reportPipe makes the fifos of a chardev and opens the one that qemu writes to,
// also for writing, so that opening waits for nobody.
func reportPipe(path string) (*os.File, error) {
	for _, end := range []string{".in", ".out"} {
		if err := unix.Mkfifo(path+end, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
	}
	return os.OpenFile(path+".out", os.O_RDWR, 0)
}

func readReports(ctx context.Context, r io.Reader, lines chan<- report) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var one report
		if err := json.Unmarshal(bytes.TrimSpace(s.Bytes()), &one); err != nil {
			fmt.Fprintf(os.Stderr, "test/vm: not a report: %q\n", s.Text())
			continue
		}
		select {
		case lines <- one:
		case <-ctx.Done():
			return
		}
	}
}

// A tail keeps the end of what is written to it.
type tail struct {
	max     int
	verbose bool // also to standard error

	mu   sync.Mutex
	kept []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.verbose {
		os.Stderr.Write(p)
	}
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - t.max; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
