// Command sallyport puts one guarded gate in front of everything that MCP
// servers send out. Each subcommand has a file; the logic is in packages.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"sallyport/pkg/keeper"
)

// version is set by the linker.
var version = "unknown"

// Exit codes beside 0, which means done.
const (
	exitFailed = 1
	exitUsage  = 2
)

// An env is what a command gets from its surroundings, so that commands run
// under test without a process.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	// locks is what the hidden flag of run says.
	locks keeper.Locks
}

// A usageError is a mistake in the command line or the configuration.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// An exitError ends the process with a code of its own and without a word: the
// command has said everything already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	// exec becomes its command on this thread, which has to be the first one:
	// only there does a parent-death signal hold.
	runtime.LockOSThread()
	// The keeper starts this binary again for its other halves; they have no
	// use for the command tree and no time to build it.
	if len(os.Args) > 2 && os.Args[1] == keeper.Internal {
		os.Exit(internal(os.Args[2:]))
	}
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	os.Exit(e.run(context.Background(), os.Args[1:]))
}

// run executes one command line and gives the exit status.
func (e *env) run(ctx context.Context, args []string) int {
	root := e.root()
	root.SetArgs(args)
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	err := root.ExecuteContext(ctx)
	var code exitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		fmt.Fprintf(e.stderr, "sallyport: %v\n", err)
		return exitUsage
	default:
		fmt.Fprintf(e.stderr, "sallyport: %v\n", err)
		return exitFailed
	}
}

// configFlag is the flag that every command has.
const configFlag = "config"

// root builds the command tree.
func (e *env) root() *cobra.Command {
	var showVersion bool
	root := &cobra.Command{
		Use:   "sallyport",
		Short: "One guarded gate for everything that MCP servers send out",
		Long: `sallyport captures every connection of the programs that it guards, in the
kernel, and lets out only what a policy allows. No proxy variables, no change in
the program, no way around.`,
		Example: `  sudo sallyport exec -- npx -y @modelcontextprotocol/server-everything
  sudo sallyport run
  sallyport tail --follow --verdict deny`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if showVersion {
				return e.printVersion(false)
			}
			return c.Help()
		},
	}
	root.Flags().BoolVar(&showVersion, "version", false, "print the version")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().String(configFlag, "", "configuration `file` (default /etc/sallyport/sallyport.yaml where it exists)")
	root.SetFlagErrorFunc(wrongUse)
	root.AddCommand(
		e.runCommand(), e.execCommand(), e.statusCommand(), e.flowsCommand(), e.tailCommand(),
		e.reloadCommand(), e.configCommand(), e.policyCommand(), e.caCommand(), e.doctorCommand(),
		e.teardownCommand(), e.versionCommand(), e.cacheCommand(), e.convertCommand(), e.reportCommand(),
		e.installCommand(), e.uninstallCommand(),
	)
	root.AddCommand(e.tagCommand(), e.untagCommand(), e.containerArgsCommand())
	root.AddCommand(e.unbuiltCommands()...)
	return root
}

// usageArgs makes a wrong number of arguments a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return wrongUse(c, err)
		}
		return nil
	}
}

// wrongUse says what is wrong with a command line, and where its help is.
func wrongUse(c *cobra.Command, err error) error {
	what := commandName(c)
	if what != "" {
		what += ": "
	}
	return usageError{fmt.Errorf("%s%w; see %s --help", what, err, c.CommandPath())}
}

// commandName is what a command is called after "sallyport", "" for the root.
func commandName(c *cobra.Command) string {
	return strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), c.Root().Name()), " ")
}
