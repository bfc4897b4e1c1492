// Command golookup prints its pid, and for each name what Go's own resolver gives.
//
//	golookup [-tcp] [-tls ADDR:PORT,SNI] NAME...
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

func main() {
	tcp := flag.Bool("tcp", false, "ask over TCP")
	over := flag.String("tls", "", "ask this server over TLS (RFC 7858), verified under this name")
	flag.Parse()
	fmt.Println("pid", os.Getpid())
	r := &net.Resolver{PreferGo: true}
	switch {
	case *tcp:
		r.Dial = func(ctx context.Context, _, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	case *over != "":
		addr, name, _ := strings.Cut(*over, ",")
		r.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := tls.Dialer{Config: &tls.Config{ServerName: name}}
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	for _, name := range flag.Args() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		addrs, err := r.LookupHost(ctx, name)
		cancel()
		var dns *net.DNSError
		switch {
		case errors.As(err, &dns) && dns.IsNotFound:
			fmt.Println(name, "no such name")
		case err != nil:
			fmt.Println(name, err)
		default:
			fmt.Println(name, strings.Join(addrs, " "))
		}
	}
}
