package main

import (
	"context"
	"fmt"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// mcp drives a server by streamable HTTP: tools "add", "count" (which notifies
// of its progress while it works) and "big".
func (r *report) mcp(url string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	progress := make(chan time.Time, 100)
	client := mcp.NewClient(&mcp.Implementation{Name: "peer", Version: "1"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(context.Context, *mcp.ProgressNotificationClientRequest) { progress <- time.Now() },
	})
	var session *mcp.ClientSession
	r.check("connect", func() (err error) {
		session, err = client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: url}, nil)
		return err
	})
	if session == nil {
		return
	}
	call := func(tool string, args map[string]any) (string, error) {
		p := &mcp.CallToolParams{Name: tool, Arguments: args}
		p.SetProgressToken("p")
		res, err := session.CallTool(ctx, p)
		if err != nil {
			return "", err
		}
		text := ""
		for _, c := range res.Content {
			if t, ok := c.(*mcp.TextContent); ok {
				text += t.Text
			}
		}
		return text, nil
	}
	r.check("list", func() error {
		l, err := session.ListTools(ctx, nil)
		if err != nil || len(l.Tools) < 3 {
			return fmt.Errorf("%v: %v", l, err)
		}
		return nil
	})
	r.check("call", func() error {
		if text, err := call("add", map[string]any{"a": 40, "b": 2}); text != "42" {
			return fmt.Errorf("%q: %v", text, err)
		}
		return nil
	})
	r.check("progress", func() error {
		text, err := call("count", map[string]any{"to": 5})
		end := time.Now()
		if err != nil || text != "counted" {
			return fmt.Errorf("%q: %v", text, err)
		}
		for i := range 5 {
			select {
			case at := <-progress:
				if i == 0 && end.Sub(at) < 400*time.Millisecond {
					return fmt.Errorf("the first progress came %s before the end: it was held back", end.Sub(at))
				}
			case <-time.After(10 * time.Second):
				return fmt.Errorf("%d of 5 notifications", i)
			}
		}
		return nil
	})
	r.check("big", func() error {
		if text, err := call("big", map[string]any{"size": 500_000}); len(text) != 500_000 {
			return fmt.Errorf("%d bytes: %v", len(text), err)
		}
		return nil
	})
	r.check("close", session.Close)
}
