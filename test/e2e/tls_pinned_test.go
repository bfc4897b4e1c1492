package e2e

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sallyport/pkg/audit"
)

// pinnedStatus asks the daemon what it tunnels because of on_pinned.
func (h *host) pinnedStatus() (list []struct {
	Workload, Host string
	Until          time.Time
}) {
	h.t.Helper()
	r := h.run(h.sallyport("status", "--json", "--config", "/srv/daemon/policy.yaml"))
	var s struct {
		Pinned json.RawMessage `json:"pinned"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil || json.Unmarshal(s.Pinned, &list) != nil {
		h.t.Fatalf("status: %v: %v", err, r)
	}
	return list
}

// TestOnPinned: clients of several make that trust the upstream's own authority
// alone fail once and are then tunnelled, where no rule has to see a request; by
// default, and where one has to, they go on failing.
func TestOnPinned(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	conf := func(onPinned string) string {
		return strings.Replace(h.config(`
rules:
  - {name: open, match: {hosts: [api.example.com, other.example.com, v4.example.com, go.example.com]}, action: allow}
  - {name: narrow, match: {hosts: [registry.example.com], paths: [/ok]}, action: allow}`), "tls: {", "tls: { on_pinned: "+onPinned+", ", 1)
	}
	const ca = "/usr/local/share/ca-certificates/internet.crt"
	if out, err := exec.Command("keytool", "-importcert", "-noprompt", "-alias", "internet", "-file", h.path(ca),
		"-keystore", h.path("/srv/only.p12"), "-storetype", "PKCS12", "-storepass", "changeit").CombinedOutput(); err != nil {
		t.Fatalf("keytool: %v: %s", err, out)
	}
	h.net.setName("go.example.com", originV4)
	h.write("/srv/bin/Pinned.java", `public class Pinned {
    public static void main(String[] args) throws Exception {
        try (var in = new java.net.URL(args[0]).openConnection().getInputStream()) { System.out.write(in.readAllBytes()); }
        System.out.flush();
    }
}`)
	clients := []struct {
		name, host string
		argv       []string
	}{
		{"curl", "api.example.com", []string{"curl", "-sS", "--cacert", ca, "--capath", "/nowhere", "https://api.example.com/ok"}},
		{"curl with TLS 1.2", "v4.example.com", []string{"curl", "-sS", "--tls-max", "1.2", "--cacert", ca, "--capath", "/nowhere", "https://v4.example.com/ok"}},
		{"java's HttpsURLConnection", "other.example.com", []string{"env", "-u", "JAVA_TOOL_OPTIONS", "java", "-Djavax.net.ssl.trustStore=/srv/only.p12", "-Djavax.net.ssl.trustStorePassword=changeit", "/srv/bin/Pinned.java", "https://other.example.com/ok"}},
		{"go", "go.example.com", []string{"env", "SSL_CERT_FILE=" + ca, "SSL_CERT_DIR=/nowhere", h.program("nethttp"), "GET", "https://go.example.com/ok", ""}},
	}
	narrow := []string{"curl", "-sS", "--cacert", ca, "--capath", "/nowhere", "https://registry.example.com/ok"}
	exec := func(argv []string) result {
		return h.run(h.sallyport(append([]string{"exec", "--config", daemonConfig, "--workload", "pin", "--"}, argv...)...))
	}
	passed := func(r result) bool { return strings.Contains(strings.ReplaceAll(r.stdout, `\`, ""), `"path":"/ok"`) }
	h.startDaemon(conf("block") + "\nworkloads: {pin: {}}\n")
	for range 2 {
		if r := exec(clients[0].argv); r.code != 60 {
			t.Errorf("blocked: %v, want curl's 60", r)
		}
	}
	if list := h.pinnedStatus(); len(list) != 0 {
		t.Errorf("blocked, but remembered: %+v", list)
	}
	h.write("/srv/daemon/policy.yaml", conf("tunnel")+"\nworkloads: {pin: {}}\n")
	if r := h.run(h.sallyport("reload")); r.code != 0 {
		t.Fatalf("reload: %v", r)
	}
	for _, c := range clients {
		if r := exec(c.argv); passed(r) {
			t.Errorf("%s: passed at once: %v", c.name, r)
		}
		e := h.waitAudit(c.name+" is rejected", func(e *audit.Event) bool {
			return e.Kind == audit.TLSRejected && e.Dst.Host == c.host && strings.Contains(e.Message, "are tunnelled (tls.on_pinned)")
		})
		if e.Workload.Name != "pin" {
			t.Errorf("%s: %+v", c.name, e)
		}
		if r := exec(c.argv); !passed(r) {
			t.Errorf("%s, the second time: %v", c.name, r)
		}
		h.waitAudit(c.name+" is tunnelled", func(e *audit.Event) bool {
			return e.Kind == audit.FlowOpen && e.TLS.Handling == "tunnel" && e.TLS.SNI == c.host && e.Rule == "open"
		})
	}
	for range 3 {
		if r := exec(narrow); r.code != 60 {
			t.Errorf("a rule with paths: %v, want curl's 60", r)
		}
	}
	list := h.pinnedStatus()
	if len(list) != len(clients) || list[0].Workload != "pin" || list[0].Host != "api.example.com" || time.Until(list[0].Until) > time.Hour || time.Until(list[0].Until) < 50*time.Minute {
		t.Errorf("status: %+v", list)
	}
	if r := h.run(h.sallyport("status", "--config", daemonConfig)); !strings.Contains(r.stdout, "TUNNELLED (ON_PINNED)") || !strings.Contains(r.stdout, "other.example.com") {
		t.Errorf("status: %s", r.stdout)
	}
	if n := h.scrape("sallyport_tls_pinned_tunnels_total"); n < float64(len(clients)) {
		t.Errorf("%v connections are counted as tunnelled", n)
	}
	// One that trusts us is inspected again as soon as the operator says so.
	h.write("/srv/daemon/policy.yaml", conf("block")+"\nworkloads: {pin: {}}\n")
	if r := h.run(h.sallyport("reload")); r.code != 0 {
		t.Fatalf("reload: %v", r)
	}
	if r := exec(clients[0].argv); r.code != 60 {
		t.Errorf("blocked again: %v", r)
	}
	if r := exec([]string{"curl", "-sS", "https://api.example.com/trusting"}); r.code != 0 {
		t.Errorf("a client that trusts us: %v", r)
	}
	h.waitAudit("the inspected exchange", func(e *audit.Event) bool { return e.Kind == audit.Exchange && e.HTTP.Path == "/trusting" })
}
