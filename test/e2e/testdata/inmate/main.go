// Command inmate runs behind the gate and does what a test tells it: one order
// a line on standard input, one JSON object a line on standard output.
//
//	ask ADDR HOST   connect, send a request, wait for the first byte
//	tls NAME        fetch https://NAME/ with the system's trust store
//	held N          a held connection gets a line, and its answer is awaited
//
// Other first arguments try one thing and print what came of it.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// An outcome is what came of one order.
type outcome struct {
	// Step is how far it came: connect, send, answer or done.
	Step string `json:"step"`
	// Errno is the name of the error, for those that the contract names.
	Errno  string  `json:"errno"`
	Err    string  `json:"err"`
	Answer string  `json:"answer"`
	Took   float64 `json:"took"`
}

func main() {
	mode := "obey"
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	switch mode {
	case "obey":
		obey()
	case "sockets":
		sockets()
	case "ptrace":
		pid, _ := strconv.Atoi(os.Args[2])
		fmt.Println(errno(syscall.PtraceAttach(pid)))
	case "readmem":
		_, err := os.ReadFile("/proc/" + os.Args[2] + "/environ")
		fmt.Println(errno(err))
	case "signals":
		signals()
	case "rlimit":
		var l syscall.Rlimit
		n, _ := strconv.Atoi(os.Args[2])
		syscall.Getrlimit(n, &l)
		fmt.Println(l.Cur, l.Max)
	case "stamp":
		// The first thing that this command does is to say when it did it.
		fmt.Println(time.Now().UnixNano())
	default:
		fmt.Fprintln(os.Stderr, "inmate: unknown", mode)
		os.Exit(2)
	}
}

func obey() {
	say := json.NewEncoder(os.Stdout)
	say.Encode(map[string]int{"pid": os.Getpid()})
	orders := bufio.NewScanner(os.Stdin)
	var held net.Conn
	for orders.Scan() {
		words := strings.Fields(orders.Text())
		start := time.Now()
		var o outcome
		switch words[0] {
		case "ask":
			o = ask(words[1], words[2])
		case "tls":
			o = fetch(words[1])
		case "hold":
			var err error
			if held, err = net.Dial("tcp", words[1]); err != nil {
				o = failed("connect", err)
			}
		case "use":
			o = use(held)
		}
		o.Took = time.Since(start).Seconds()
		say.Encode(o)
	}
}

func ask(addr, host string) outcome {
	d := net.Dialer{Timeout: 30 * time.Second}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return failed("connect", err)
	}
	defer c.Close()
	return say(c, host)
}

// use asks on a connection that was opened before.
func use(c net.Conn) outcome {
	if c == nil {
		return outcome{Step: "connect", Errno: "no connection", Err: "no connection"}
	}
	return say(c, "held")
}

func say(c net.Conn, host string) outcome {
	c.SetDeadline(time.Now().Add(40 * time.Second))
	if _, err := fmt.Fprintf(c, "GET /asked HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host); err != nil {
		return failed("send", err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return failed("answer", err)
	}
	return outcome{Step: "done", Answer: strings.TrimSpace(line)}
}

func fetch(name string) outcome {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	r, err := client.Get("https://" + name + "/fetched")
	if err != nil {
		return failed("answer", err)
	}
	defer r.Body.Close()
	io.Copy(io.Discard, r.Body)
	return outcome{Step: "done", Answer: r.Status}
}

func failed(step string, err error) outcome {
	return outcome{Step: step, Errno: errno(err), Err: err.Error()}
}

func errno(err error) string {
	var n syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case !errors.As(err, &n):
		return err.Error()
	case n == syscall.EPERM:
		return "EPERM"
	case n == syscall.EACCES:
		return "EACCES"
	case n == syscall.ECONNREFUSED:
		return "ECONNREFUSED"
	case n == syscall.ECONNRESET:
		return "ECONNRESET"
	case n == syscall.EAFNOSUPPORT:
		return "EAFNOSUPPORT"
	}
	return n.Error()
}

// sockets tries one socket of each family.
func sockets() {
	families := map[string]int{
		"unix": syscall.AF_UNIX, "inet": syscall.AF_INET, "inet6": syscall.AF_INET6, "netlink": syscall.AF_NETLINK,
		"packet": syscall.AF_PACKET, "vsock": 40, "alg": 38, "bluetooth": 31, "xdp": 44, "can": 29, "tipc": 30,
	}
	got := make(map[string]string)
	for name, family := range families {
		kind := syscall.SOCK_DGRAM
		if family == syscall.AF_NETLINK || family == syscall.AF_PACKET {
			kind = syscall.SOCK_RAW
		}
		fd, err := syscall.Socket(family, kind, 0)
		if err == nil {
			syscall.Close(fd)
		}
		got[name] = errno(err)
	}
	json.NewEncoder(os.Stdout).Encode(got)
}

// signals prints each signal that comes, until SIGUSR2 ends it.
func signals() {
	c := make(chan os.Signal, 16)
	signal.Notify(c)
	fmt.Println("ready")
	for s := range c {
		n := s.(syscall.Signal)
		if n == syscall.SIGURG || n == syscall.SIGCHLD {
			continue // Go's own
		}
		fmt.Println(int(n))
		if n == syscall.SIGUSR2 {
			return
		}
	}
}
