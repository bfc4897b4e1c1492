package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// serveGoMCP is an MCP server by the Go SDK, streamable HTTP.
func (n *internet) serveGoMCP() {
	n.t.Helper()
	server := mcp.NewServer(&mcp.Implementation{Name: "peer", Version: "1"}, nil)
	text := func(s string) *mcp.CallToolResult {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: s}}}
	}
	mcp.AddTool(server, &mcp.Tool{Name: "add"}, func(_ context.Context, _ *mcp.CallToolRequest, in struct {
		A int `json:"a"`
		B int `json:"b"`
	}) (*mcp.CallToolResult, any, error) {
		return text(fmt.Sprint(in.A + in.B)), nil, nil
	})
	mcp.AddTool(server, &mcp.Tool{Name: "big"}, func(_ context.Context, _ *mcp.CallToolRequest, in struct {
		Size int `json:"size"`
	}) (*mcp.CallToolResult, any, error) {
		return text(strings.Repeat("x", in.Size)), nil, nil
	})
	mcp.AddTool(server, &mcp.Tool{Name: "count"}, func(ctx context.Context, req *mcp.CallToolRequest, in struct {
		To int `json:"to"`
	}) (*mcp.CallToolResult, any, error) {
		for i := range in.To {
			if err := req.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: req.Params.GetProgressToken(), Progress: float64(i + 1), Total: float64(in.To)}); err != nil {
				return nil, nil, err
			}
			time.Sleep(250 * time.Millisecond)
		}
		return text("counted"), nil, nil
	})
	web := &http.Server{Handler: mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil)}
	inNetns(n.t, n.ns, func() {
		go web.Serve(tls.NewListener(n.listen(":"+portGoMCP), &tls.Config{GetCertificate: n.ca.Certificate, NextProtos: []string{"h2", "http/1.1"}}))
	})
	n.t.Cleanup(func() { web.Close() })
}

// tryMCP: the clients of both SDKs at the servers of both.
func (s *street) tryMCP() {
	s.net.serveGoMCP()
	s.startNode("mcp_server.mjs", "mcp.example.com", portMCP)
	client := s.peerProgram("goclient")
	for _, port := range []string{portMCP, portGoMCP} {
		url := "https://mcp.example.com:" + port + "/mcp"
		s.checks(6, nil, client, "mcp", url)
		s.nodeChecks(8, "mcp_client.mjs", url)
	}
	// The tools' calls are exchanges like all others.
	eventually(s.t, 10*time.Second, "all POSTs are in the audit", func() bool {
		posts := 0
		for _, e := range s.exchanges("/mcp") {
			if e.Verdict != "allow" {
				s.t.Fatalf("audit: %+v", e)
			}
			if e.HTTP.Method == "POST" {
				posts++
			}
		}
		return posts >= 4*6
	})
}
