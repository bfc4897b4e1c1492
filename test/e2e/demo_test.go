package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sallyport/pkg/config"
)

// TestReadmePolicy: what the README and the demo show is a valid configuration.
func TestReadmePolicy(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(readme, -1)
	if len(blocks) == 0 {
		t.Fatal("the README shows no policy")
	}
	for _, b := range blocks {
		if _, err := config.Parse([]config.File{{Name: "README.md", Data: b[1]}}); err != nil {
			t.Errorf("%v", err)
		}
	}
	policy, err := os.ReadFile("../demo/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.Parse([]config.File{{Name: "policy.yaml", Data: append([]byte("version: 1\n"), policy...)}}); err != nil {
		t.Errorf("demo: %v", err)
	}
}

// TestDemo: the demo shows what it says, with and without sudo's variables, and
// leaves nothing behind.
func TestDemo(t *testing.T) {
	t.Parallel()
	run, err := filepath.Abs("../demo/run")
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	if err := os.Chmod(filepath.Dir(tmp), 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(run)
	c.Env = append(os.Environ(), "TMPDIR="+tmp)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		`(?m)^  forecast\(Oslo\) +ok +\{"city":"Oslo"`,
		`(?m)^  publish\(Oslo\) +refused +403 no rule allows this`,
		`(?m)^  POST https://collect\.tracker\.example/ +no such host$`,
		`(?m)^  POST https://203\.0\.113\.66/ +403 Forbidden$`,
		`(?m)^  UDP to 203\.0\.113\.66:443.* operation not permitted$`,
		`allow +exchange +weather +GET https://api\.weather\.example/v1/forecast\?city=Oslo 200 .*rule=weather-read`,
		`deny +dns +weather +A collect\.tracker\.example NXDOMAIN reason=no_rule`,
		`deny +exchange +weather +POST https://203\.0\.113\.66/ 403 .*reason=no_rule`,
		`deny +exchange +weather +POST https://api\.weather\.example/v1/observations 403 .*reason=no_rule`,
		`deny +refused +weather +203\.0\.113\.66:443 reason=udp_denied`,
		`flow_close +weather +api\.weather\.example:443 ↑1\.\dkB ↓\d`,
		`(?m)^  api\.weather\.example got +GET https://api\.weather\.example/v1/forecast\?city=Oslo$`,
		`(?m)^  collect\.tracker\.example got +0 packets$`,
	} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("not in the output: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
	if n := strings.Count(string(out), "\n"); n > 60 {
		t.Errorf("%d lines are more than one screen", n)
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
