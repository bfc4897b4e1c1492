package bypass

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"sallyport/test/outside"
)

// A row is one way that a program can try.
type row struct {
	// subject is the name of what is tried, name what is special here.
	subject, name string
	// first is done outside of any tagged cgroup and as root, by the process that
	// then becomes the attacker; statements are done as the attacker. "{port}" is
	// a source port of the attack's own.
	first, statements []string
	// users are whose attack it is; nil: each of identities.
	users []identity
	// trace is a part of the line under which the wire shows it; "": the
	// attack's own source port.
	trace string
	// marker is in what the far end receives if the attack leads there, where the
	// source port does not tell: another process sends it, or sends it twice.
	marker string
	// older: what the wire shows from the attack's port may be older than the attack.
	older bool
	// must names a statement whose success is what the attack wants, where that
	// is no packet.
	must string
	// timed: what is promised takes a second, in which a busy machine may not come to
	// it: it is tried again, alone.
	timed bool
	// sneaks: leads out also where redirection alone is in force. That is what
	// egress is for.
	sneaks bool
	// states are the locks under which the row makes sense; nil: all.
	states []locks
	// control is done by root where no lock is there, in place of statements that
	// nobody else may make.
	control []string
	// stated says why the row does not hold on this kernel, which the
	// documentation tells. statedUnder names the locks of which alone that is
	// true; nil: all.
	stated      string
	statedUnder []locks
	// uncontrolled says why the row cannot reach anything anywhere.
	uncontrolled string
	// scenario makes the attack where statements are not enough; its result is
	// how often something was reached, and what was seen.
	scenario func(x *trial) (reached int, said []string)
}

// identities are those whom the table knows.
var identities = []identity{{nobody, false}, {nobody, true}, {0, false}}

// ordinary is an ordinary user, with and without no_new_privs.
var ordinary = identities[:2]

// asRoot is for what nobody else can try.
var asRoot = []identity{{0, false}}

// everybody is who tries what anybody can.
func everybody() []identity {
	if *rootToo {
		return identities
	}
	return ordinary
}

// A trial is one run of a row.
type trial struct {
	*row
	w     *world
	locks locks
	who   identity
	port  int
}

// An outcome is what came of a trial.
type outcome string

const (
	refused     outcome = "refused"    // the program saw an error
	proxied     outcome = "proxied"    // it saw a connection, which sallyport has
	direct      outcome = "direct"     // something left past sallyport
	impossible  outcome = "impossible" // this kernel has no such thing
	notAnAttack outcome = "no attack"  // nothing left although no lock was there
	stated      outcome = "stated"     // not refused, and documented so
	reachedIt   outcome = "reached"    // the control: it leads out without locks
)

// A line of the report.
type line struct {
	Row         string  `json:"row"`
	Subject     string  `json:"subject"`
	Locks       locks   `json:"locks"`
	UID         int     `json:"uid"`
	NNP         bool    `json:"nnp"`
	Outcome     outcome `json:"outcome"`
	OriginCount int     `json:"origin_count"`
	WireCount   int     `json:"wire_count"`
	// Tries is how often the attack was made, if more than once. The counts are those
	// of the last tries, the first one's are in Reason.
	Tries  int    `json:"tries,omitempty"`
	Reason string `json:"reason,omitempty"`
	Kernel string `json:"kernel"`
}

// A report is the file that -report names.
type report struct {
	mu   sync.Mutex
	file *os.File
	// outcomes counts for the summary.
	outcomes map[locks]map[outcome]int
	// controls are the rows that reached something without locks, by name.
	controls map[string]bool
	tried    map[string]string
}

func newReport(t *testing.T) *report {
	r := &report{outcomes: map[locks]map[outcome]int{}, controls: map[string]bool{}, tried: map[string]string{}}
	switch *reportPath {
	case "":
	case "-":
		r.file = os.Stdout
	default:
		f, err := os.OpenFile(*reportPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		r.file = f
	}
	return r
}

var kernelRelease = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
})

func (r *report) add(l line) {
	l.Kernel = kernelRelease()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.outcomes[l.Locks] == nil {
		r.outcomes[l.Locks] = map[outcome]int{}
	}
	r.outcomes[l.Locks][l.Outcome]++
	if r.file != nil {
		b, _ := json.Marshal(l)
		fmt.Fprintf(r.file, "%s\n", b)
	}
}

// fill puts the trial's port and the host's names into statements.
func (x *trial) fill(statements []string) []string {
	marker := "m" + strconv.Itoa(x.port) + "m"
	replace := strings.NewReplacer(
		"{port}", strconv.Itoa(x.port), "{marker}", marker,
		"{uid}", strconv.Itoa(x.who.uid),
		"{cgroup}", x.w.h.below("attacker"), "{root}", cgroupRoot(),
		"{worker}", strconv.Itoa(x.w.worker), "{keeper}", strconv.Itoa(x.w.d.pid),
		"{pid}", x.w.bystanderWord(0), "{fd}", x.w.bystanderWord(1), "{secret}", x.w.bystanderWord(2), "{self}", x.w.bystanderWord(0),
		"{header inet}", headerV4, "{header inet6}", headerV6,
		"{query}", fmt.Sprintf("%x", question(marker+".attacker.example")),
		"{tcpquery}", fmt.Sprintf("%x", framed(question(marker+".attacker.example"))),
		"{group4}", outside.GroupOf(4, x.port), "{group6}", outside.GroupOf(16, x.port),
	)
	var filled []string
	for _, s := range statements {
		s = replace.Replace(s)
		// {http METHOD TARGET HOST} is a request in hexadecimal digits.
		if head, rest, ok := strings.Cut(s, "{http "); ok {
			words := strings.Fields(strings.TrimSuffix(rest, "}"))
			s = head + fmt.Sprintf("%x", fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nX-Mark: %s\r\n\r\n", words[0], words[1], words[2], marker))
		}
		filled = append(filled, s)
	}
	return filled
}

// unsupported says why a kernel does not have what an attack uses, "" if it does.
func unsupported(said []string) string {
	for i, line := range said {
		last := i == len(said)-1
		switch {
		case strings.HasPrefix(line, "socket E") && strings.HasSuffix(line, "NOSUPPORT"):
			return "this kernel has no such socket: " + line
		case strings.HasPrefix(line, "uring_setup E"):
			return "no io_uring here: " + line
		case strings.HasPrefix(line, "uringsocket EINVAL"), strings.HasPrefix(line, "uringsocket EOPNOTSUPP"):
			return "io_uring makes no sockets before Linux 5.19"
		case strings.HasPrefix(line, "ulp E"), strings.HasPrefix(line, "segments E"):
			return "this kernel has no such option: " + line
		case last && (strings.HasSuffix(line, " EINVAL") || strings.HasSuffix(line, " EPERM")) && strings.Contains(strings.Join(said, "\n"), "cmsg ok"):
			return "this kernel takes no such ancillary data from this user: " + line
		}
	}
	return ""
}
