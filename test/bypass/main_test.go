// Package bypass tries every way out that its table names, as an ordinary user,
// with and without no_new_privs, and as root, with both locks of sallyport and
// under each of them alone, and counts what arrives at the far end.
//
// It is made to run anywhere: `go test -c ./test/bypass` gives a program that
// needs root, a kernel, the binary (SALLYPORT_BINARY) and attacker/attacker.c,
// compiled statically (SALLYPORT_ATTACKER; else gcc compiles it). It makes its
// hosts by itself and starts no tool of the machine. On a machine that is emulated
// all waits take SALLYPORT_SLOWER times as long.
package bypass

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

var (
	reportPath  = flag.String("report", "", "file for one JSON line per row and run, - for standard output")
	onlyRows    = flag.String("rows", "", "regular expression of the rows' subjects and names to try")
	onlyLocks   = flag.String("locks", "both,guard,none,bpf,redirects", "the locks to try them under")
	rootToo     = flag.Bool("root", true, "try as root too what an ordinary user can")
	inTurns     = flag.Bool("turns", false, "under each lock one of those who can try a row does, another under the next")
	connections = flag.Int("connections", 20_000, "how many connections race the end of worker and keeper")
)

// roles are what the test's own program does on a host under test, by its first
// argument.
var roles = map[string]func([]string) error{
	"host":  beHost,
	"relay": beRelay,
	"talk":  talk,
}

// slower is how many times longer than usual everything may take here. A role has
// it from the test.
var slower = sync.OnceValue(func() int {
	times, _ := strconv.Atoi(os.Getenv("SALLYPORT_SLOWER"))
	return max(1, times)
})

// patient gives how long what usually takes d may take here.
func patient(d time.Duration) time.Duration { return d * time.Duration(slower()) }

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if role := roles[os.Args[1]]; role != nil {
			if err := role(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}
