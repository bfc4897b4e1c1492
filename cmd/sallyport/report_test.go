package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport/pkg/report"
)

const reportLines = `{"time":"2026-03-04T05:06:07Z","event":"a-1","kind":"exchange","verdict":"deny","reason":"rate_limited","rule":"r","workload":{"name":"w"},"dst":{"host":"h.example"},"http":{"method":"GET","path":"/","status":429},"duration":{"total":0.001}}
{"time":"2026-03-04T05:06:08Z","event":"a-2","kind":"exchange","verdict":"allow","rule":"r","workload":{"name":"other"},"dst":{"host":"h.example"},"http":{"method":"GET","path":"/","status":200},"duration":{"total":0.002}}
{"time":"2026-03-04T05:06:0
`

func TestReportCommand(t *testing.T) {
	dir := t.TempDir()
	plain, packed := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "audit.jsonl.1.gz")
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write([]byte(reportLines))
	w.Close()
	if err := os.WriteFile(plain, []byte(reportLines), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(packed, z.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, "report", "--json", plain, packed)
	var s report.Summary
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil || r.code != 0 || s.Events != 4 || s.Unreadable != 2 {
		t.Errorf("%v: %+v", err, r)
	}
	r = run(t, "report", "--workload", "w", plain)
	if r.code != 0 || !strings.Contains(r.stdout, "1 events") || !strings.Contains(r.stdout, "    1  w         r     rate_limited\n") {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"report"}, {"report", "--top", "0", plain}, {"report", "--kind", "nothing", plain}} {
		if r := run(t, args...); r.code != exitUsage || r.stderr == "" {
			t.Errorf("%v: %+v", args, r)
		}
	}
	if r := run(t, "report", filepath.Join(dir, "absent")); r.code != exitFailed || !strings.Contains(r.stderr, "no such file") {
		t.Errorf("%+v", r)
	}
}
