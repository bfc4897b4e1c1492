package keeper

import (
	"strings"
	"testing"

	"sallyport/pkg/config"
)

// TestUnchangeable: a reload either puts a key in force or says that it does
// not. A key that is in neither list here is one that somebody forgot.
func TestUnchangeable(t *testing.T) {
	parse := func(text string) *config.Config {
		t.Helper()
		c, err := config.Parse([]config.File{{Name: "f", Data: []byte(text)}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	old := parse("version: 1\n")
	for key, text := range map[string]string{
		"state_dir":        "state_dir: /srv/x\ntls: { ca_dir: /var/lib/sallyport/ca }",
		"runtime_dir":      "runtime_dir: /srv/x\nadmin: { socket: /run/sallyport/admin.sock }",
		"bpf_dir":          "bpf_dir: /srv/x",
		"nft_table":        "nft_table: x",
		"slice":            "slice: x.slice",
		"listen":           "listen: { tcp: 1 }",
		"admin":            "admin: { group: x }",
		"metrics":          "metrics: { listen: '127.0.0.1:1' }",
		"log":              "log: { level: debug }",
		"tls.ca_dir":       "tls: { ca_dir: /srv/x }",
		"audit.file":       "audit: { file: { max_files: 3 } }",
		"audit.sinks":      "audit: { sinks: [file, syslog] }",
		"audit.syslog":     "audit: { syslog: { facility: local0 } }",
		"audit.on_failure": "audit: { on_failure: continue }",
	} {
		err := unchangeable(old, parse(text))
		if err == nil || err.Error() != key+" cannot change while running: restart sallyport" {
			t.Errorf("%s: %v", key, err)
		}
	}
	for _, text := range []string{
		"mode: observe", "default: allow", "timeouts: { idle: 1s }", "dns: { upstreams: [192.0.2.1], allow_unlisted: true }",
		"tls: { upstream_ca_files: [/srv/x], min_version: '1.3', on_pinned: tunnel }", "upstream_proxy: { url: 'http://proxy.example.com:3128' }",
		"redis: { db: 3 }", "cache: { max_bytes: 1MB }", "upstreams: { u: { targets: [ { target: 'api.example.com:443' } ] } }",
		"defaults: { timeouts: { connect: 1s } }",
		"workloads: { w: {} }", "rules: [{ name: r, action: deny }]",
	} {
		if err := unchangeable(old, parse(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	// Every top-level key stands above.
	for line := range strings.Lines(string(old.Show())) {
		if key, _, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") && !strings.Contains(
			"version state_dir runtime_dir bpf_dir nft_table slice listen admin metrics log tls audit mode default timeouts dns upstream_proxy redis cache defaults workloads upstreams rules", key) {
			t.Errorf("nobody knows whether a reload changes %s", key)
		}
	}
}
