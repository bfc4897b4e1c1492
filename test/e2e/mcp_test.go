package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport/pkg/audit"
)

// mcpRules are what somebody who runs these servers would write.
const mcpRules = `
workloads:
  weather: { match: { command: "*/open-meteo-mcp-server*" } }
  github: { match: { command: "*/mcp-server-github*" } }
  everything: { match: { command: "*/mcp-server-everything*" } }
rules:
  - name: weather-forecast
    match: { workloads: [weather], hosts: [api.open-meteo.com], methods: [GET], paths: [/v1/forecast] }
    action: allow
  - name: github-no-secrets
    match: { workloads: [github], hosts: [api.github.com], paths: ["/repos/acme/secret/**"] }
    action: deny
  - name: github-read
    match: { workloads: [github], hosts: [api.github.com], methods: [GET] }
    action: allow
`

// answerAPIs answers as the public APIs would, under their real names.
func answerAPIs(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	switch host, path := r.Host, r.URL.Path; {
	case host == "api.open-meteo.com" && path == "/v1/forecast":
		fmt.Fprintf(w, `{"latitude":%s,"longitude":%s,"generationtime_ms":0.1,"utc_offset_seconds":0,"timezone":"GMT","timezone_abbreviation":"GMT","elevation":38,"hourly_units":{"time":"iso8601","temperature_2m":"°C"},"hourly":{"time":["2026-01-01T00:00"],"temperature_2m":[13.37]}}`,
			r.URL.Query().Get("latitude"), r.URL.Query().Get("longitude"))
	case host == "api.github.com" && strings.HasPrefix(path, "/repos/acme/widgets/issues"):
		fmt.Fprint(w, `[{"url":"u","number":42,"title":"the gate squeaks"}]`)
	default:
		http.Error(w, `{"message":"Not Found"}`, http.StatusNotFound)
	}
}

// An mcpServer is one from npm under exec, with a client at its standard
// input and output.
type mcpServer struct {
	*mcp.ClientSession
	command *exec.Cmd
}

func (h *host) startMCP(ctx context.Context, policyFile string, argv ...string) (*mcpServer, error) {
	c := h.command(append([]string{h.binary, "exec", "--config", policyFile, "--"}, argv...)...)
	client := mcp.NewClient(&mcp.Implementation{Name: "sallyport-test", Version: "1"}, nil)
	session, err := client.Connect(ctx, &mcp.CommandTransport{Command: c}, nil)
	if err != nil {
		return nil, fmt.Errorf("start %v: %w", argv, err)
	}
	return &mcpServer{session, c}, nil
}

// call calls a tool and gives its text.
func (s *mcpServer) call(ctx context.Context, tool string, args any) (text string, failed bool, err error) {
	r, err := s.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		return "", false, err
	}
	for _, c := range r.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			text += t.Text
		}
	}
	return text, r.IsError, nil
}

func (s *mcpServer) tools(ctx context.Context) ([]string, error) {
	r, err := s.ListTools(ctx, nil)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, t := range r.Tools {
		names = append(names, t.Name)
	}
	return names, nil
}

// TestMCPServers: three MCP servers as npm has them, side by side under three
// execs, driven over stdio by the MCP SDK's client. What their tools may do
// arrives at the API; what they may not is answered, and the server goes on.
func TestMCPServers(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.setHandler(answerAPIs)
	for _, name := range []string{"geocoding-api.open-meteo.com", "archive-api.open-meteo.com"} {
		h.net.setName(name, originV4)
	}
	modules := h.nodeModules()
	h.write("/srv/policy.yaml", h.config(mcpRules))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()

	type call struct {
		tool string
		args map[string]any
		// text must be in the answer.
		text string
		fail bool
	}
	servers := []struct {
		workload, script string
		tools            []string
		calls            []call
	}{
		{"everything", modules + "/.bin/mcp-server-everything", []string{"echo", "get-sum"}, []call{
			{"echo", map[string]any{"message": "through the gate"}, "through the gate", false},
			{"get-sum", map[string]any{"a": 40, "b": 2}, "42", false},
		}},
		{"weather", modules + "/.bin/open-meteo-mcp-server", []string{"weather_forecast", "geocoding"}, []call{
			{"weather_forecast", map[string]any{"latitude": 52.52, "longitude": 13.41, "hourly": []string{"temperature_2m"}}, "13.37", false},
			{"geocoding", map[string]any{"name": "Berlin"}, "", true},
			{"weather_forecast", map[string]any{"latitude": 1.5, "longitude": 2.5, "hourly": []string{"temperature_2m"}}, "13.37", false},
		}},
		{"github", modules + "/.bin/mcp-server-github", []string{"list_issues", "create_issue"}, []call{
			{"list_issues", map[string]any{"owner": "acme", "repo": "widgets"}, "the gate squeaks", false},
			{"create_issue", map[string]any{"owner": "acme", "repo": "widgets", "title": "x"}, "Insufficient permissions", true},
			{"list_issues", map[string]any{"owner": "acme", "repo": "secret"}, "Insufficient permissions", true},
			{"list_issues", map[string]any{"owner": "acme", "repo": "widgets"}, "the gate squeaks", false},
		}},
	}

	pids := make([]uint32, len(servers))
	together := make(chan struct{})
	var ready, wg sync.WaitGroup
	ready.Add(len(servers))
	for i, s := range servers {
		wg.Go(func() {
			session, err := h.startMCP(ctx, "/srv/policy.yaml", s.script)
			ready.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer session.Close()
			pids[i] = uint32(session.command.Process.Pid)
			// All three run before any of them works.
			<-together
			tools, err := session.tools(ctx)
			if err != nil || !containsAll(tools, s.tools) {
				t.Errorf("%s: tools %v: %v", s.workload, tools, err)
			}
			for _, c := range s.calls {
				text, failed, err := session.call(ctx, c.tool, c.args)
				if err != nil {
					// Older servers answer with a JSON-RPC error where newer ones have
					// isError.
					text, failed = err.Error(), true
				}
				if failed != c.fail || !strings.Contains(text, c.text) {
					t.Errorf("%s: %s %v: failed=%v %q", s.workload, c.tool, c.args, failed, text)
				}
			}
		})
	}
	ready.Wait()
	close(together)
	wg.Wait()
	if t.Failed() {
		return
	}

	// At the APIs: exactly what was allowed, whole.
	var paths []string
	for _, s := range h.net.seen() {
		path, _, _ := strings.Cut(s.Path, "?")
		paths = append(paths, s.Method+" "+s.Host+path)
	}
	want := map[string]int{"GET api.open-meteo.com/v1/forecast": 2, "GET api.github.com/repos/acme/widgets/issues": 2}
	for _, p := range paths {
		want[p]--
	}
	for p, missing := range want {
		if missing != 0 {
			t.Errorf("at the APIs: %d too few of %s; all: %v", missing, p, paths)
		}
	}

	// In the audit: each with its workload, process, rule and answer.
	for _, e := range []struct {
		server        int
		method, host  string
		path, verdict string
		reason, rule  string
		status        int
	}{
		{1, "GET", "api.open-meteo.com", "/v1/forecast", "allow", "", "weather-forecast", 200},
		{2, "GET", "api.github.com", "/repos/acme/widgets/issues", "allow", "", "github-read", 200},
		{2, "POST", "api.github.com", "/repos/acme/widgets/issues", "deny", "no_rule", "", 403},
		{2, "GET", "api.github.com", "/repos/acme/secret/issues", "deny", "rule_denied", "github-no-secrets", 403},
	} {
		got := h.waitAudit(e.path, func(a *audit.Event) bool {
			return a.Kind == audit.Exchange && a.HTTP.Method == e.method && a.HTTP.Path == e.path
		})
		if got.Workload.Name != servers[e.server].workload || got.Workload.PID != pids[e.server] || got.HTTP.Host != e.host ||
			got.Verdict != e.verdict || got.Reason != e.reason || got.Rule != e.rule || got.HTTP.Status != e.status {
			t.Errorf("audit of %s %s (pid %d): %+v", e.method, e.path, pids[e.server], got)
		}
	}
	h.waitAudit("the unlisted name", func(a *audit.Event) bool {
		return a.Kind == audit.DNS && a.DNS.Name == "geocoding-api.open-meteo.com" && a.Verdict == "deny" && a.Workload.Name == "weather"
	})
	for _, name := range h.net.asked() {
		if name == "geocoding-api.open-meteo.com" {
			t.Error("the unlisted name was asked upstream")
		}
	}
}

func containsAll(list, want []string) bool {
	have := map[string]bool{}
	for _, s := range list {
		have[s] = true
	}
	for _, s := range want {
		if !have[s] {
			return false
		}
	}
	return true
}

// TestMCPServerWithoutConfig: the first thing that a newcomer does, with no
// file at all: everything works and everything is recorded.
func TestMCPServerWithoutConfig(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.net.setHandler(answerAPIs)
	modules := h.nodeModules()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	c := h.command(h.exec("", modules+"/.bin/mcp-server-github")...)
	session, err := mcp.NewClient(&mcp.Implementation{Name: "sallyport-test", Version: "1"}, nil).Connect(ctx, &mcp.CommandTransport{Command: c}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	s := &mcpServer{session, c}
	text, failed, err := s.call(ctx, "list_issues", map[string]any{"owner": "acme", "repo": "widgets"})
	if err != nil || failed || !strings.Contains(text, "the gate squeaks") || !json.Valid([]byte(text)) {
		t.Errorf("list_issues: %v %v %s", failed, err, text)
	}
	e := h.waitAudit("the call", func(e *audit.Event) bool { return e.Kind == audit.Exchange })
	if e.Verdict != "would_deny" || e.Reason != "no_rule" || e.HTTP.Host != "api.github.com" || e.HTTP.Status != 200 || e.Workload.PID != uint32(c.Process.Pid) {
		t.Errorf("audit: %+v", e)
	}
}
