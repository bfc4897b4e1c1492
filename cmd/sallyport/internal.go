package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"go.uber.org/zap"

	"sallyport/pkg/agent"
	"sallyport/pkg/doctor"
	"sallyport/pkg/keeper"
	"sallyport/pkg/keeper/wire"
)

// wireFD is the descriptor of the connection that every internal process gets.
const wireFD = 3

// detached marks the second of the two processes that a keeper starts as.
const detached = "--detached"

// internal runs one of the other halves of the binary.
func internal(args []string) int {
	var err error
	switch name, rest := args[0], args[1:]; name {
	case keeper.InternalWork:
		err = internalWorker(rest)
	case keeper.InternalKeep:
		err = internalKeeper(rest)
	case keeper.InternalProbe:
		return keeper.Probe(os.Stdout, rest)
	case keeper.InternalHold:
		keeper.Hold(os.Stdin)
	case keeper.InternalWatch:
		err = keeper.Watch(os.Stdin, rest)
	case keeper.InternalStart:
		if len(rest) != 1 {
			err = errors.New("launch: want the number of the connection's descriptor")
			break
		}
		var fd int
		if fd, err = strconv.Atoi(rest[0]); err == nil {
			return keeper.RunLaunched(os.NewFile(uintptr(fd), "wire"), os.Stderr)
		}
	case doctor.FetchArgument:
		if len(rest) != 1 {
			err = errors.New("fetch: want a URL")
			break
		}
		err = fetch(rest[0], os.Stdout)
	default:
		err = fmt.Errorf("internal: unknown process %q", name)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "sallyport: %v\n", err)
		return exitFailed
	}
	return 0
}

// internalWorker is the worker. With an argument it is a service of its own: it
// finds the keeper at that socket, and the connection that it was given is to the
// main process of its service.
func internalWorker(args []string) error {
	if err := agent.CheckPrivileges(); err != nil {
		return err
	}
	conn, err := wire.NewConn(os.NewFile(wireFD, "wire"))
	if err != nil {
		return err
	}
	if len(args) == 1 {
		return agent.Serve(args[0], conn, newLogger)
	}
	return agent.Main(conn, newLogger)
}

func internalKeeper(args []string) error {
	if !slices.Contains(args, detached) {
		return keeper.Detach(append([]string{keeper.Internal, keeper.InternalKeep, detached}, args...)...)
	}
	conn, err := wire.NewConn(os.NewFile(wireFD, "wire"))
	if err != nil {
		return err
	}
	log := zap.NewNop()
	if slices.Contains(args, "-v") {
		log = newLogger("info", "console")
	}
	return keeper.RunStandalone(conn, log)
}
