// Command goclient is clients in Go: each first argument is one. It prints
// "ok NAME" or "not ok NAME: why" for each thing that it tried.
//
//	http BASE VERSION      net/http, version HTTP/1.1, HTTP/2.0 or h2c
//	grpc ADDRESS tls|text  grpc-go
//	say ADDRESS TEXT       grpc-go, the text plain, compressed, in a stream
//	goaway ADDRESS         grpc-go, a server that ends connections often
//	socket ADDRESS         a WebSocket in a stream of HTTP/2 (RFC 8441)
//	mcp URL                go-sdk's streamable HTTP client
package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

func main() {
	args := os.Args[1:]
	var r report
	switch {
	case len(args) == 3 && args[0] == "http":
		r.http(args[1], args[2])
	case len(args) == 3 && args[0] == "grpc":
		r.grpc(args[1], args[2] == "tls")
	case len(args) == 3 && args[0] == "say":
		say(args[1], args[2])
	case len(args) == 2 && args[0] == "goaway":
		r.goaway(args[1])
	case len(args) == 2 && args[0] == "socket":
		r.socket(args[1])
	case len(args) == 2 && args[0] == "mcp":
		r.mcp(args[1])
	default:
		fmt.Fprintln(os.Stderr, "goclient: unknown arguments", args)
		os.Exit(2)
	}
}

// A report prints what came of each check.
type report struct{ mu sync.Mutex }

// check runs one check.
func (r *report) check(name string, f func() error) {
	err := f()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		fmt.Printf("not ok %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	fmt.Println("ok", name)
}
