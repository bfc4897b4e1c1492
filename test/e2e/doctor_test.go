package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// standIn puts a program in the place of one that the host has not: it fetches the
// URL among its arguments, and trusts what the file of a variable holds, as the
// other's documentation says of that; with no variable it trusts nobody.
func (h *host) standIn(name, variable string) {
	h.t.Helper()
	path := "/srv/standins/" + name
	h.write(path, fmt.Sprintf(`#!/usr/bin/python3
import os, re, ssl, sys, urllib.request
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
if %[1]q:
    context.load_verify_locations(os.environ[%[1]q])
url = re.search(r'https://[^"\s]+', " ".join(sys.argv[1:])).group()
print(urllib.request.urlopen(url, timeout=10, context=context).read())
`, variable))
	if err := os.Chmod(h.path(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

// TestDoctorTrust: each runtime of this machine trusts a workload's certificates,
// by a handshake of its own. What the machine has not is stood in for where its
// documentation says what it honours; and a program that honours nothing is said to
// fail, with what to do.
func TestDoctorTrust(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	standIns := map[string]string{"uv": "SSL_CERT_FILE", "ruby": "SSL_CERT_FILE", "bun": "NODE_EXTRA_CA_CERTS", "deno": "DENO_CERT"}
	var stoodIn []string
	for name, variable := range standIns {
		if r := h.sh("command -v " + name); r.code != 0 {
			h.standIn(name, variable)
			stoodIn = append(stoodIn, name)
		}
	}
	slices.Sort(stoodIn)
	t.Logf("not installed, stood in for: %v", stoodIn)
	ask := func() map[string]string {
		t.Helper()
		r := h.run(h.command("bash", "-c", `PATH="$PATH:/srv/standins" exec "$0" doctor --json`, h.binary))
		said := make(map[string]string)
		for line := range strings.Lines(r.stdout) {
			var c struct{ Section, Check, Status, Detail, Remedy string }
			if err := json.Unmarshal([]byte(line), &c); err != nil {
				t.Fatalf("doctor: %v: %q", err, line)
			}
			if name, ok := strings.CutPrefix(c.Check, "trust: "); ok {
				said[name] = c.Status + ": " + c.Detail + "; " + c.Remedy
			}
		}
		return said
	}
	said := ask()
	for name, result := range said {
		if !strings.HasPrefix(result, "ok: ") && !strings.HasPrefix(result, "skipped: n") {
			t.Errorf("%s: %s", name, result)
		}
	}
	for _, name := range append([]string{"curl", "openssl", "git", "python-urllib", "python-requests", "node-fetch", "node-https", "npm", "java", "php", "perl-lwp", "go"}, "uv", "ruby", "bun", "deno") {
		if !strings.HasPrefix(said[name], "ok: ") {
			t.Errorf("%s was not asked: %s", name, said[name])
		}
	}
	if len(stoodIn) == 0 {
		return
	}
	h.standIn(stoodIn[0], "")
	if got := ask()[stoodIn[0]]; !strings.HasPrefix(got, "failed: ") || !strings.Contains(got, "handling: tunnel") {
		t.Errorf("a program with roots of its own: %s", got)
	}
}
