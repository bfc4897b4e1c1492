package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// A runtime is one way in which MCP servers make TLS connections. Which variable
// each honours was measured for the list in package ca; here it is asked again, of the
// version that this host has.
type runtime struct {
	name string
	// program must exist, and probe, if there is one, must succeed, or the
	// runtime is not on this host.
	program string
	probe   []string
	// argv fetches a URL.
	argv func(url string) []string
}

// self is the running binary.
const self = "/proc/self/exe"

// FetchArgument is the internal command with which the binary fetches a URL
// itself: a static Go program, as many MCP servers are.
const FetchArgument = "fetch"

func runtimes() []runtime {
	python := func(code string) func(string) []string {
		return func(url string) []string { return []string{"python3", "-c", code, url} }
	}
	return []runtime{
		{name: "curl", program: "curl", argv: func(u string) []string { return []string{"curl", "-sS", "-m", "10", u} }},
		{name: "wget", program: "wget", argv: func(u string) []string { return []string{"wget", "-q", "-T", "10", "-t", "1", "-O", "-", u} }},
		{name: "openssl", program: "openssl", argv: func(u string) []string {
			at, path, _ := strings.Cut(strings.TrimPrefix(u, "https://"), "/")
			return []string{"sh", "-c", `printf 'GET /%s HTTP/1.0\r\n\r\n' "$2" | openssl s_client -quiet -verify_return_error -servername localhost -connect "$1"`, "sh", at, path}
		}},
		{name: "git", program: "git", argv: func(u string) []string { return []string{"git", "ls-remote", u} }},
		{name: "python-urllib", program: "python3", argv: python("import sys,urllib.request; print(urllib.request.urlopen(sys.argv[1],timeout=10).read())")},
		{name: "python-requests", program: "python3", probe: []string{"python3", "-c", "import requests"}, argv: python("import sys,requests; print(requests.get(sys.argv[1],timeout=10).text)")},
		{name: "python-httpx", program: "python3", probe: []string{"python3", "-c", "import httpx"}, argv: python("import sys,httpx; print(httpx.get(sys.argv[1],timeout=10).text)")},
		{name: "node-fetch", program: "node", argv: func(u string) []string {
			return []string{"node", "-e", "fetch(process.argv[1]).then(r=>r.text()).then(t=>console.log(t),e=>{console.error(e.cause||e);process.exit(1)})", u}
		}},
		{name: "node-https", program: "node", argv: func(u string) []string {
			return []string{"node", "-e", "require('https').get(process.argv[1],r=>r.pipe(process.stdout)).on('error',e=>{console.error(e);process.exit(1)})", u}
		}},
		{name: "npm", program: "npm", argv: func(u string) []string {
			return []string{"npm", "view", "sallyport-probe", "--registry", u + "/", "--fetch-retries=0", "--cache", os.DevNull}
		}},
		{name: "pip", program: "python3", probe: []string{"python3", "-m", "pip", "--version"}, argv: func(u string) []string {
			return []string{"python3", "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--retries", "0", "--timeout", "10", "-d", os.DevNull, "--index-url", u + "/", "sallyport-probe"}
		}},
		{name: "botocore", program: "python3", probe: []string{"python3", "-c", "import botocore"}, argv: python("import sys, botocore.session\ns = botocore.session.get_session()\ns.set_credentials('probe', 'probe')\nprint(s.create_client('s3', region_name='us-east-1', endpoint_url=sys.argv[1]).list_buckets())")},
		{name: "cargo", program: "cargo", argv: func(u string) []string {
			return []string{"cargo", "search", "--index", "sparse+" + u + "/", "sallyport-probe"}
		}},
		{name: "uv", program: "uv", argv: func(u string) []string {
			return []string{"uv", "pip", "install", "--system", "--dry-run", "--no-cache", "--index-url", u + "/", "sallyport-probe"}
		}},
		{name: "php", program: "php", argv: func(u string) []string {
			return []string{"php", "-r", "echo file_get_contents($argv[1]);", u}
		}},
		{name: "perl-lwp", program: "perl", probe: []string{"perl", "-MLWP::Protocol::https", "-e", "1"}, argv: func(u string) []string {
			return []string{"perl", "-MLWP::UserAgent", "-e", "print LWP::UserAgent->new(timeout=>10)->get($ARGV[0])->decoded_content", u}
		}},
		{name: "deno", program: "deno", argv: func(u string) []string {
			return []string{"deno", "eval", "console.log(await (await fetch(" + fmt.Sprintf("%q", u) + ")).text())"}
		}},
		{name: "bun", program: "bun", argv: func(u string) []string {
			return []string{"bun", "-e", "console.log(await (await fetch(" + fmt.Sprintf("%q", u) + ")).text())"}
		}},
		{name: "java", program: "javac", argv: func(u string) []string {
			return []string{"sh", "-c", `d=$(mktemp -d) && trap 'rm -rf "$d"' EXIT && printf '%s' "$1" >"$d/Fetch.java" && java "$d/Fetch.java" "$2"`, "sh", javaFetch, u}
		}},
		{name: "ruby", program: "ruby", argv: func(u string) []string {
			return []string{"ruby", "-ropen-uri", "-e", "puts URI.open(ARGV[0]).read", u}
		}},
		{name: "go", program: self, argv: func(u string) []string { return []string{self, "internal", FetchArgument, u} }},
	}
}

const javaFetch = `public class Fetch {
  public static void main(String[] a) throws Exception {
    System.out.println(new String(new java.net.URL(a[0]).openStream().readAllBytes()));
  }
}`

// runtimes gives a check for each runtime that MCP servers are likely to use; one
// that this host does not have says so.
func (d *Doctor) runtimes() []check {
	if d.Start == nil {
		return nil
	}
	var checks []check
	for _, r := range runtimes() {
		checks = append(checks, check{name: "trust: " + r.name, run: func(ctx context.Context) Result {
			if _, err := exec.LookPath(r.program); err != nil {
				return skipped("not installed")
			}
			return d.handshake(ctx, r)
		}})
	}
	return append(checks, check{name: "trust: rust-webpki-roots", run: func(context.Context) Result {
		return skipped("no program to ask: what is built with rustls and webpki-roots carries its own roots and honours nothing; allow its hosts with handling: tunnel")
	}})
}

// handshake lets one runtime fetch a page from a server with a leaf of ours.
func (d *Doctor) handshake(ctx context.Context, r runtime) Result {
	if r.probe != nil {
		if err := exec.CommandContext(ctx, r.probe[0], r.probe[1:]...).Run(); err != nil {
			return skipped("not installed")
		}
	}
	h, err := d.Serve()
	if err != nil {
		return failed(err.Error(), "run doctor as root")
	}
	defer h.Close()
	out, err := d.Start(ctx, r.argv(h.url(r.name)), os.Environ())
	if h.came(r.name) {
		return ok("trusts the workload's certificates")
	}
	if err == nil {
		err = errNoAnswer
	}
	detail := strings.TrimSpace(err.Error() + ": " + lastLine(out))
	if said := h.lastFailure(); said != "" {
		detail += " (" + strings.TrimSpace(said) + ")"
	}
	if errors.Is(err, context.DeadlineExceeded) {
		detail = "no answer in time"
	}
	return failed(detail, "a program with roots of its own: allow its hosts with handling: tunnel, or give it "+r.name+"'s own setting for the bundle that sallyport ca bundle prints")
}

// lastLine is where programs say why.
func lastLine(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	last := lines[len(lines)-1]
	const most = 200
	if len(last) > most {
		last = last[:most] + "…"
	}
	return last
}
