package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"sallyport/pkg/tag"
)

func (e *env) containerArgsCommand() *cobra.Command {
	var engine string
	var asJSON bool
	c := &cobra.Command{
		Use:   "container-args [WORKLOAD]",
		Short: "Print the flags with which a container is captured and trusts sallyport",
		Long: `Prints the flags for docker run and podman run, one a line, or the keys of a
compose service: the parent of the cgroup, so that the container is captured from its
first instruction, and the certificates with the variables that point to them. With a
workload, also the name or labels by which its match knows the container.`,
		Example: `  docker run $(sudo sallyport container-args) mcp/fetch
  sudo sallyport container-args web --engine compose`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			kind, err := tag.ParseEngine(engine)
			if err != nil {
				return usageError{fmt.Errorf("container-args: --engine: %w", err)}
			}
			h, err := e.tagHost(c)
			if err != nil {
				return err
			}
			workload := ""
			if len(args) == 1 {
				workload = args[0]
			}
			flags, err := h.ContainerFor(workload)
			if err != nil {
				return fmt.Errorf("container-args: %w", err)
			}
			if asJSON {
				return json.NewEncoder(e.stdout).Encode(flags.Args())
			}
			_, err = io.WriteString(e.stdout, flags.Text(kind))
			return err
		},
	}
	c.Flags().StringVar(&engine, "engine", string(tag.Docker), "`name` of the engine: docker, podman, compose")
	c.Flags().BoolVar(&asJSON, "json", false, "print a JSON list of words")
	return c
}
