package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// unbuilt are the commands of the contract that do not exist yet. They are
// refused by name, so that a script which needs one does not go on without it.
var unbuilt = []string{
	"audit", "inject", "top", "web",
}

func (e *env) unbuiltCommands() []*cobra.Command {
	cs := make([]*cobra.Command, len(unbuilt))
	for i, name := range unbuilt {
		cs[i] = unbuiltCommand(name)
	}
	return cs
}

// unbuiltCommand refuses whatever follows its name.
func unbuiltCommand(name string) *cobra.Command {
	return &cobra.Command{
		Use:                name,
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return usageError{fmt.Errorf("%s: not built yet", commandName(c))}
		},
	}
}
