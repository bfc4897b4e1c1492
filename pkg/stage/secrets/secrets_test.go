package secrets

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport/pkg/stage/scan"
)

func newSet(t testing.TB) *Set {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// letters gives n characters of the alphabet, each time the same.
func letters(n int, alphabet string) string {
	r := rand.New(rand.NewPCG(uint64(n), uint64(len(alphabet))))
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(b)
}

const (
	alnum  = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	hex    = "0123456789abcdef"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	alpha  = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

// samples has what each detector must find; none was ever valid. They are put
// together here so that nobody's scanner takes this file for a leak.
func samples() map[string][]string {
	a, h, u, d := func(n int) string { return letters(n, alnum) }, func(n int) string { return letters(n, hex) },
		func(n int) string { return letters(n, upper) }, func(n int) string { return letters(n, digits) }
	jwt := "ey" + "JhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + a(43)
	return map[string][]string{
		"credit-card": {"4111 1111 1111 1111", "4111-1111-1111-1111", "4012888888881881", "5555555555554444", "2223003122003222",
			"378282246310005", "3782 822463 10005", "6011111111111117", "3530111333300000"},
		"aws-access-key-id":     {"AKIA" + u(16), "ASIA" + u(16)},
		"aws-secret-access-key": {"aws_secret_access_key = " + a(40), `"SecretAccessKey": "` + a(40) + `"`, "AWS_SECRET_ACCESS_KEY=" + a(40)},
		"aws-bedrock-key":       {"ABSK" + a(120)},
		"gcp-api-key":           {"AIza" + a(35)},
		"gcp-oauth-token":       {"ya29." + a(60)},
		"gcp-oauth-secret":      {"GOCSPX-" + a(28)},
		"azure-storage-key":     {"AccountKey=" + a(86) + "=="}, "azure-shared-access-key": {"SharedAccessKey=" + a(43) + "="},
		"azure-client-secret": {"abc8Q~" + a(34)}, "azure-sas": {"sig=" + a(41) + "%2B%3D", "sig=" + a(43) + "="},
		"alibaba-access-key-id": {"LTAI" + a(20)}, "digitalocean-token": {"dop_v1_" + h(64)},
		"cloudflare-origin-ca-key": {"v1.0-" + h(24) + "-" + h(146)}, "databricks-token": {"dapi" + h(32), "dapi" + h(32) + "-2"},
		"github-token":              {"ghp_" + a(36), "gho_" + a(36), "ghs_" + a(36)},
		"github-fine-grained-token": {"github_pat_" + a(22) + "_" + a(59)},
		"gitlab-token":              {"glpat-" + a(20), "glrt-" + a(20)}, "atlassian-token": {"ATATT3" + a(186)},
		"npm-token": {"npm_" + a(36)}, "pypi-token": {"pypi-AgEIcHlwaS5vcmc" + a(80)}, "rubygems-token": {"rubygems_" + h(48)},
		"docker-token":  {"dckr_pat_" + a(27)},
		"slack-token":   {"xoxb-" + d(12) + "-" + d(12) + "-" + a(24), "xoxp-" + d(12) + "-" + a(30), "xoxe.xoxp-1-" + a(60), "xapp-1-A" + u(9) + "-" + d(12) + "-" + h(40)},
		"slack-webhook": {"hooks.slack.com/services/T" + u(8) + "/B" + u(8) + "/" + a(24)}, "discord-webhook": {"discord.com/api/webhooks/" + d(18) + "/" + a(68)},
		"telegram-token": {d(10) + ":AA" + a(33)}, "sendgrid-token": {"SG." + a(22) + "." + a(43)}, "twilio-key": {"SK" + h(32)},
		"mailgun-key":   {"key-" + h(32)},
		"anthropic-key": {"sk-ant-" + "api03-" + a(93) + "AA"}, "openai-key": {"sk-proj-" + a(74) + "T3BlbkFJ" + a(74), "sk-" + a(20) + "T3BlbkFJ" + a(20)},
		"huggingface-token": {"hf_" + letters(34, alpha)}, "groq-key": {"gsk_" + a(52)}, "perplexity-key": {"pplx-" + a(48)},
		"replicate-token": {"r8_" + a(37)}, "xai-key": {"xai-" + a(80)},
		"stripe-key": {"sk_live_" + a(24), "rk_test_" + a(99)}, "stripe-webhook-secret": {"whsec_" + a(32)},
		"square-token": {"sq0atp-" + a(22), "sq0csp-" + a(43)}, "shopify-token": {"shpat_" + h(32)}, "linear-key": {"lin_api_" + a(40)},
		"notion-token": {"ntn_" + d(11) + a(35)}, "figma-token": {"figd_" + a(43)}, "airtable-token": {"pat" + a(14) + "." + h(64)},
		"dropbox-token": {"sl." + a(135)}, "postman-key": {"PMAK-" + h(24) + "-" + h(34)}, "newrelic-key": {"NRAK-" + u(27)},
		"grafana-token": {"glsa_" + a(32) + "_" + h(8), "glc_eyJ" + a(60)}, "sentry-token": {"sntryu_" + h(64), "sntrys_eyJ" + a(80)},
		"doppler-token": {"dp.pt." + a(43), "dp.st.prod." + a(43)}, "vault-token": {"hvs." + a(90)}, "terraform-token": {a(14) + ".atlasv1." + a(67)},
		"heroku-key": {"HRKU-" + a(60)}, "planetscale-token": {"pscale_tkn_" + a(43)},
		"age-secret-key": {"AGE-SECRET-KEY-1" + letters(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L")},
		"private-key": {"-----BEGIN RSA PRIVATE KEY-----\n" + a(64) + "\n" + a(20) + "\n-----END RSA PRIVATE KEY-----",
			"-----BEGIN OPENSSH PRIVATE KEY-----\r\n" + a(70) + "\r\n" + a(70), "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: x\n\n" + a(64)},
		"jwt": {jwt},
	}
}

// TestFound: each sample is found under its detector's name, alone, in prose, in
// JSON, and byte by byte, and nothing of it is left.
func TestFound(t *testing.T) {
	s := newSet(t)
	all := samples()
	for i := range detectors {
		if len(all[detectors[i].id]) == 0 {
			t.Errorf("%s has no sample", detectors[i].id)
		}
	}
	for id, list := range all {
		mark := "[redacted:" + id + "]"
		for _, sample := range list {
			// What stands before the rare part of an expression stays.
			kept := ""
			if id == "terraform-token" {
				kept = sample[:14]
			}
			if got := string(s.Redact(nil, []byte(sample))); got != kept+mark && got != kept+mark+`"` && got != `"`+kept+mark+`"` {
				t.Errorf("%s: %q became %q", id, sample, got)
				continue
			}
			for _, form := range []string{"the key is %s, keep it", "a=%s&b=c", "<%s>", "x\t%s\n", "[%s]"} {
				got := string(s.Redact(nil, fmt.Appendf(nil, form, sample)))
				if !strings.Contains(got, mark) || strings.Contains(got, sample[len(sample)/2:]) {
					t.Errorf("%s: in %q it became %q", id, form, got)
				}
			}
			quoted, err := json.Marshal(map[string]string{"text": "look:\n" + sample + "\nend."})
			if err != nil {
				t.Fatal(err)
			}
			got := s.Redact(nil, quoted)
			if !bytes.Contains(got, []byte(mark)) || !json.Valid(got) {
				t.Errorf("%s: in JSON it became %s", id, got)
			}
			// Each character as an escape.
			var escaped strings.Builder
			for _, c := range sample {
				fmt.Fprintf(&escaped, `\u%04x`, c)
			}
			if got := string(s.Redact(nil, []byte(`{"a":"`+escaped.String()+`"}`))); !strings.Contains(got, mark) {
				t.Errorf("%s: escaped it became %.200s", id, got)
			}
			pieces(t, s, "x: "+sample+"\n", string(s.Redact(nil, []byte("x: "+sample+"\n"))))
		}
	}
}

// pieces feeds the text byte by byte and cut in two at every place.
func pieces(t *testing.T, s *Set, text, want string) {
	t.Helper()
	r := scan.NewScanner([]scan.Search{s.Search(true)}, scan.JSON, 1<<20, func(f scan.Found) (scan.Verdict, error) {
		return scan.Verdict{Replace: s.Mark(f.Name)}, nil
	})
	try := func(how string, parts ...string) {
		t.Helper()
		r.Reset()
		var out []byte
		var err error
		for i, part := range parts {
			if out, err = r.Feed(out, []byte(part), i == len(parts)-1); err != nil {
				t.Fatal(err)
			}
		}
		if string(out) != want {
			t.Fatalf("%s: %q, want %q", how, out, want)
		}
	}
	try("byte by byte", strings.Split(text, "")...)
	for cut := range len(text) {
		try(fmt.Sprintf("cut at %d", cut), text[:cut], text[cut:])
	}
}

// TestNotFound: what looks like a secret and is none.
func TestNotFound(t *testing.T) {
	s := newSet(t)
	a := func(n int) string { return letters(n, alnum) }
	for _, text := range []string{
		"4111 1111 1111 1112", "0.4111111111111111", "1234.4111111111111111", "4111111111111111.25", "1-4111111111111111", "4000000000000000000",
		"id 94111111111111111", "0000000000000000", "1732287600000", "20261122171226123", "550e8400-e29b-41d4-a716-446655440000", "+49 4111 111111",
		"-3.4028234663852886e+38 4.8824368e-05", "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
		"ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "ghp_" + a(20), "xghp_" + a(36), "sk-proj-your-key-here", "sk_live_...", "glpat-short",
		"npm_config_registry_of_our_own_company", "npm_" + a(50), "the task-ant-api03 thing", "desk-proj-abcdefghijklmnopqrstuvwxyzabcdefghijklmnop!"[:20],
		"-----BEGIN CERTIFICATE-----\n" + a(64) + "\n-----END CERTIFICATE-----", "-----BEGIN PUBLIC KEY-----\n" + a(64), "-----BEGIN RSA PRIVATE KEY-----\n...\n",
		"eyJub3RhbGciOiJ4In0." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + a(43), "eyJhbGciOiJIUzI1NiJ9", "AIzaSy", "SK" + strings.Repeat("0", 32), "key-value", "sig=short",
		strings.Repeat("a1b2c3d4", 8), "sha256:" + letters(64, hex), "https://hooks.slack.com/services/", "xoxb-", "hf_transformers_model_name", "r8_model",
		"pat" + a(14), "sl.example.com", "SG.example", `{"next_page_token":"` + a(40) + `"}`, "Zm9vYmFy" + a(400),
	} {
		if got := string(s.Redact(nil, []byte(text))); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// TestKeywords: what a detector finds contains one of its keywords, so that the
// scan for keywords alone is what its cost can be compared with.
func TestKeywords(t *testing.T) {
	for id, list := range samples() {
		for i := range detectors {
			d := &detectors[i]
			if d.id != id {
				continue
			}
			for _, sample := range list {
				found := false
				for _, k := range d.keywords {
					found = found || strings.Contains(strings.ToLower(sample), strings.ToLower(k))
				}
				if !found {
					t.Errorf("%s: %q has none of %q", id, sample, d.keywords)
				}
			}
		}
	}
}

// FuzzRedact: nothing that is found is left, whatever stands around it and
// wherever the text is cut.
func FuzzRedact(f *testing.F) {
	s := newSet(f)
	f.Add([]byte("4111111111111111 and ghp_"+letters(36, alnum)), 7)
	f.Add([]byte(`"\u0067hp_`+letters(36, alnum)+`\n"`), 3)
	f.Fuzz(func(t *testing.T, p []byte, cut int) {
		want := s.Redact(nil, p)
		r := scan.NewScanner([]scan.Search{s.Search(true)}, scan.JSON, 1<<20, func(f scan.Found) (scan.Verdict, error) {
			return scan.Verdict{Replace: s.Mark(f.Name)}, nil
		})
		cut = min(max(cut, 0), len(p))
		out, err := r.Feed(nil, p[:cut], false)
		if err == nil {
			out, err = r.Feed(out, p[cut:], true)
		}
		if err != nil || !bytes.Equal(out, want) {
			t.Errorf("cut at %d: %q %v, whole %q", cut, out, err, want)
		}
	})
}

// clean is JSON as APIs send it, in which there is no secret.
func clean(n int) []byte {
	r := rand.New(rand.NewPCG(5, 6))
	var b bytes.Buffer
	b.WriteString(`{"items":[`)
	for i := 0; b.Len() < n; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d,"sha":"%s","full_name":"octo-org/repository-%d","private":false,"description":"A small tool that %s the key parts of a %s",`+
			`"url":"https://api.example.com/repos/octo-org/repository-%d","score":%.12f,"created_at":"2026-0%d-1%dT0%d:22:39Z","labels":["help wanted","good first issue"]}`,
			r.IntN(1<<30), letters(40, hex), i, []string{"reads", "writes", "skips"}[i%3], []string{"task", "disk", "graph"}[i%3], i, r.Float64(), i%9+1, i%10, i%10)
	}
	b.WriteString("]}")
	return b.Bytes()
}

// keywordScan is a scan for the keywords and nothing else.
func keywordScan(t testing.TB) *scan.Pattern {
	t.Helper()
	var list []string
	for i := range detectors {
		for _, k := range detectors[i].keywords {
			if k != "" {
				list = append(list, regexp.QuoteMeta(k))
			}
		}
	}
	p, err := scan.Compile(strings.Join(list, "|"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func scanner(search scan.Search, view scan.View) *scan.Scanner {
	return scan.NewScanner([]scan.Search{search}, view, 1<<20, func(scan.Found) (scan.Verdict, error) { return scan.Verdict{}, nil })
}

func feed(t testing.TB, r *scan.Scanner, dst, p []byte) {
	r.Reset()
	if _, err := r.Feed(dst[:0], p, true); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkDetectors(b *testing.B) {
	p := clean(256 << 10)
	r, dst := scanner(newSet(b).Search(true), scan.JSON), make([]byte, 0, len(p)+64)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		feed(b, r, dst, p)
	}
}

func BenchmarkKeywords(b *testing.B) {
	p := clean(256 << 10)
	r, dst := scanner(scan.Search{Pattern: keywordScan(b), Hold: true}, nil), make([]byte, 0, len(p)+64)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		feed(b, r, dst, p)
	}
}

// BenchmarkRatio fails where all detectors cost more than 1.3 times the scan for
// their keywords alone, over the same text: the median of turns that alternate,
// by the processor's time.
func BenchmarkRatio(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := clean(256 << 10)
	dst := make([]byte, 0, len(p)+64)
	all, bare := scanner(newSet(b).Search(true), scan.JSON), scanner(scan.Search{Pattern: keywordScan(b), Hold: true}, nil)
	took := func(r *scan.Scanner) float64 {
		best := int64(math.MaxInt64)
		for range 4 {
			begin := processorTime(b)
			feed(b, r, dst, p)
			best = min(best, processorTime(b)-begin)
		}
		return float64(best)
	}
	took(all)
	took(bare)
	var ratios []float64
	for b.Loop() {
		ratios = append(ratios, took(all)/took(bare))
	}
	slices.Sort(ratios)
	median := ratios[len(ratios)/2]
	b.ReportMetric(median, "ratio")
	if len(ratios) >= 10 && median > 1.3 {
		b.Errorf("the detectors take %.2f times as long as their keywords alone, more than 1.3", median)
	}
}

// processorTime gives the time that the thread has had, in nanoseconds.
func processorTime(t testing.TB) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano()
}
