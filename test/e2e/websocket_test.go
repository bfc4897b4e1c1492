package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// TestWebSocket: Node's ws on both sides, in the clear and over TLS: what they
// say passes untouched, and the audit tells when each opened, how many messages
// went either way, and how it was closed.
func TestWebSocket(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	modules, err := npmClients()
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("testdata/websocket/server.mjs")
	if err != nil {
		t.Fatal(err)
	}
	key, cert := h.net.leafFiles(t.TempDir(), "api.example.com")
	server := exec.Command("node", script, originV4, "8080", "8444", key, cert)
	server.Env = append(hostEnvironment(), "NODE_PATH="+filepath.Join(modules, "node_modules"))
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	inNetns(t, h.net.ns, func() { err = server.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	eventually(t, 20*time.Second, "the server listens", func() (up bool) {
		inNetns(t, h.net.ns, func() {
			out, _ := exec.Command("ss", "-Hltn").Output()
			up = strings.Contains(string(out), ":8080 ") && strings.Contains(string(out), ":8444 ")
		})
		return up
	})
	client, err := os.ReadFile("testdata/websocket/client.mjs")
	if err != nil {
		t.Fatal(err)
	}
	h.write("/srv/client.mjs", string(client))
	const want = `text closed 1000 
big closed 3000 enough
deflate closed 1000 
ping closed 1005 
server-closes closed 4002 as you wish
server-dies closed 1006 
client-dies closed 1006 
forbidden/x failed Unexpected server response: 403
`
	type count struct {
		sent, received uint64
		code           uint16
		least          int64 // bytes either way
	}
	counts := map[string]count{
		"/text": {10, 10, 1000, 120}, "/big": {2, 2, 3000, 4_600_000}, "/deflate": {5, 5, 1000, 100}, "/ping": {1, 1, 1005, 10},
		"/server-closes": {1, 0, 4002, 8}, "/server-dies": {1, 0, 1006, 0}, "/client-dies": {1, 1, 1006, 4},
	}
	for _, base := range []string{"ws://api.example.com:8080", "wss://api.example.com:8444"} {
		c := h.command(h.exec(h.config(webRules), "node", "/srv/client.mjs", base)...)
		c.Env = append(c.Env, "NODE_PATH="+h.nodeModules())
		if r := h.run(c); r.stdout != want || r.code != 0 {
			t.Errorf("%s: %v", base, r)
		}
		port := map[bool]uint16{true: 8080, false: 8444}[strings.HasPrefix(base, "ws:")]
		for path, want := range counts {
			of := func(kind audit.Kind) func(*audit.Event) bool {
				return func(e *audit.Event) bool { return e.Kind == kind && e.HTTP.Path == path && e.Dst.Port == port }
			}
			open := h.waitAudit(base+path+" opens", of(audit.WebSocketOpen))
			e := h.waitAudit(base+path+" ends", of(audit.Exchange))
			got := fmt.Sprint(e.WebSocket.MessagesSent, e.WebSocket.MessagesReceived, e.WebSocket.CloseCode)
			if got != fmt.Sprint(want.sent, want.received, want.code) || e.HTTP.Status != 101 || e.HTTP.RequestBytes < want.least || e.HTTP.ResponseBytes < min(want.least, int64(want.received)*4) {
				t.Errorf("%s%s: %s, want %+v: %+v", base, path, got, want, e.HTTP)
			}
			if open.HTTP.Status != 101 || open.Rule != "api" || open.Verdict != "allow" || open.Time.Before(e.Time) || open.WebSocket != (audit.WebSocket{}) {
				t.Errorf("%s%s: %+v", base, path, open)
			}
			if port == 8080 && path == "/deflate" && e.HTTP.RequestBytes > 400_000 {
				t.Errorf("compression was lost: %+v", e.HTTP)
			}
		}
	}
}
