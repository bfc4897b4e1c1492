// Command world is everything around sallyport in the demo: a small internet,
// an MCP server that does more than it says, and an MCP client.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := errors.New("usage: world internet DIR | world client COMMAND… | weather-server")
	switch args := os.Args[1:]; {
	case len(args) == 2 && args[0] == "internet":
		err = internet(ctx, args[1])
	case len(args) == 0 && filepath.Base(os.Args[0]) == "weather-server":
		err = serve(ctx)
	case len(args) > 1 && args[0] == "client":
		err = client(ctx, args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
