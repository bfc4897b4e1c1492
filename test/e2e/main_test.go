package e2e

import (
	"flag"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets more tests run at once than there are processors: most of them
// wait. What measures a time is not parallel, and has the machine to itself.
func TestMain(m *testing.M) {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		flag.Set("test.parallel", strconv.Itoa(2*runtime.NumCPU()))
	}
	// What a shell runs in the background ignores these, and so would every
	// command that a test starts and interrupts.
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGQUIT} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	os.Exit(m.Run())
}
