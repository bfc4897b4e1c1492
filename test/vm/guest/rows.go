package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	dir   = "/opt/vm"
	port  = "/dev/ttyS1"
	state = dir + "/state.json"
	// rebootStatus is what a row exits with to be called again after a reboot.
	rebootStatus = 194
	// logKept is how much of a failed row's log is reported, in bytes.
	logKept = 6000
)

// A step is one row of the plan.
type step struct {
	Row     string  `json:"row"`
	File    string  `json:"file"`
	Seconds float64 `json:"seconds"`
}

// A place is where a reboot interrupted the plan.
type place struct {
	Next  int     `json:"next"`
	Phase int     `json:"phase"`
	Spent float64 `json:"spent"` // seconds that earlier phases took
}

// A report is a line for the host; see machine.go there.
type report struct {
	Event   string             `json:"event"`
	Row     string             `json:"row,omitempty"`
	OK      bool               `json:"ok"`
	Seconds float64            `json:"seconds"`
	Detail  string             `json:"detail,omitempty"`
	Figures map[string]float64 `json:"figures,omitempty"`
	Log     string             `json:"log,omitempty"`
}

// runRows runs the plan from where a reboot left it, and powers off.
func runRows(ctx context.Context) error {
	out, err := os.OpenFile(port, os.O_WRONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	var steps []step
	if err := readJSON(dir+"/plan.json", &steps); err != nil {
		return err
	}
	var at place
	if err := readJSON(state, &at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for ; at.Next < len(steps); at = (place{Next: at.Next + 1}) {
		s := steps[at.Next]
		if err := send(out, report{Event: "start", Row: s.Row}); err != nil {
			return err
		}
		start := time.Now()
		r, again := runRow(ctx, s, at.Phase)
		r.Row, r.Seconds = s.Row, at.Spent+time.Since(start).Seconds()
		if again {
			if err := writeJSON(state, place{Next: at.Next, Phase: at.Phase + 1, Spent: r.Seconds}); err != nil {
				return err
			}
			if err := send(out, report{Event: "reboot", Row: s.Row}); err != nil {
				return err
			}
			return exec.Command("systemctl", "reboot").Run()
		}
		r.Seconds = float64(int(r.Seconds*10)) / 10
		if err := send(out, r); err != nil {
			return err
		}
	}
	if err := send(out, report{Event: "halt"}); err != nil {
		return err
	}
	return exec.Command("systemctl", "poweroff").Run()
}

// runRow runs one row; again says that it wants a reboot.
func runRow(ctx context.Context, s step, phase int) (r report, again bool) {
	r = report{Event: "end"}
	log, err := os.OpenFile(dir+"/"+s.Row+".log", os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		r.Detail = err.Error()
		return r, false
	}
	defer log.Close()
	figures, detail := dir+"/"+s.Row+".figures", dir+"/"+s.Row+".detail"
	limit := time.Duration(s.Seconds * float64(time.Second))
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", dir+"/"+s.File)
	c.Dir = dir
	c.Env = append(os.Environ(), "PHASE="+strconv.Itoa(phase), "FIGURES="+figures, "DETAIL="+detail, "HOME=/root", "LANG=C.UTF-8")
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = time.Second
	err = c.Run()
	r.Figures, r.Detail = readFigures(figures), strings.TrimSpace(readAll(detail))
	var exit *exec.ExitError
	switch {
	case err == nil:
		r.OK = true
	case ctx.Err() != nil:
		r.Detail = fmt.Sprintf("not finished after %s", limit)
	case errors.As(err, &exit) && exit.ExitCode() == rebootStatus:
		return r, true
	default:
		r.Detail = lastLine(readAll(log.Name()))
	}
	text := readAll(log.Name())
	fmt.Printf("=== %s: ok=%v\n%s\n", s.Row, r.OK, text)
	if !r.OK {
		services, _ := exec.Command("journalctl", "-b", "--no-pager", "-o", "short-monotonic", "-n", "60", "-u", "sallyport*", "-u", "mcp*", "-u", "vm-internet*", "--no-hostname").Output()
		r.Log = keepEnd(text) + "\n--- journal:\n" + keepEnd(string(services))
	}
	return r, false
}

// readFigures reads lines `name number`; a later one replaces an earlier.
func readFigures(file string) map[string]float64 {
	figures := map[string]float64{}
	for line := range strings.Lines(readAll(file)) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseFloat(number, 64); err == nil {
			figures[name] = n
		}
	}
	return figures
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

func keepEnd(s string) string {
	if len(s) > logKept {
		s = "…" + s[len(s)-logKept:]
	}
	return s
}

// readAll gives "" for a file that is not there.
func readAll(file string) string {
	b, _ := os.ReadFile(file)
	return string(bytes.ToValidUTF8(b, []byte("?")))
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

func writeJSON(file string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}

// send writes one line. The port is a terminal to the kernel, which is asked to
// change nothing but line ends.
func send(out *os.File, r report) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = out.Write(append(b, '\n'))
	return err
}
