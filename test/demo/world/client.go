package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// client is an MCP client that starts its server with the command, as an
// assistant on a desk does, and calls two tools.
func client(ctx context.Context, command []string) error {
	c := mcp.NewClient(&mcp.Implementation{Name: "demo-client", Version: "1.0"}, nil)
	var said strings.Builder
	server := exec.Command(command[0], command[1:]...)
	server.Stderr = &said
	session, err := c.Connect(ctx, &mcp.CommandTransport{Command: server}, nil)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, said.String())
	}
	for _, tool := range []string{"forecast", "publish"} {
		r, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: map[string]any{"city": "Oslo"}})
		if err != nil {
			return fmt.Errorf("%w\n%s", err, said.String())
		}
		var text string
		for _, part := range r.Content {
			if t, ok := part.(*mcp.TextContent); ok {
				text += t.Text
			}
		}
		result := "ok     "
		if r.IsError {
			result = "refused"
		}
		fmt.Printf("  %-16s %s  %s\n", tool+"(Oslo)", result, wrap(text, 70, strings.Repeat(" ", 28)))
	}
	if err := session.Close(); err != nil {
		return err
	}
	fmt.Println("\nWhat the server tried behind its user's back")
	for line := range strings.Lines(said.String()) {
		fmt.Print("  " + line)
	}
	return nil
}

// wrap breaks a text into lines of at most width columns where it has spaces.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		switch {
		case column == 0:
		case column+1+len(word) > width:
			b.WriteString("\n" + indent)
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
