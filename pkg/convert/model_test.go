package convert_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"sallyport/pkg/policy"
)

// The tests of this file hold what was converted against a model of the gateway:
// whatever is allowed here is something that the gateway sent.

// paths are those that are asked for, of few letters so that everything meets.
func somePaths() (all []string) {
	segments := []string{"a", "b", "ab", "B"}
	all = []string{"/"}
	level := []string{""}
	for range 3 {
		var next []string
		for _, p := range level {
			for _, s := range segments {
				next = append(next, p+"/"+s)
			}
		}
		for _, p := range next {
			all = append(all, p, p+"/")
		}
		level = next
	}
	return all
}

func allowed(p *policy.Policy, host, path, method string) bool {
	d := p.Decide(&policy.Query{
		Workload: "w", Host: host, Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.1")}, Port: 80, Protocol: policy.HTTP,
		HTTP: &policy.HTTPQuery{Method: method, Path: path},
	})
	return d.Verdict == policy.Allow
}

// A nginxLocation is one of the model.
type nginxLocation struct {
	modifier, uri string
	// host is "" where nothing is sent; to is what takes the place of uri, "" for
	// nothing.
	host, to string
	// limit is a directive that makes its rule another than those without.
	limit string
}

// find gives the location that nginx chooses, nil for none.
func find(all []nginxLocation, path string) *nginxLocation {
	var best *nginxLocation
	named, redirected := false, false
	for i := range all {
		l := &all[i]
		if !strings.HasPrefix(l.modifier, "~") {
			// The name without its slash is answered by a redirect.
			named = named || l.uri == path
			redirected = redirected || l.uri == path+"/" && l.host != "" && path != ""
		}
		switch l.modifier {
		case "=":
			if l.uri == path {
				return l
			}
		case "", "^~":
			if strings.HasPrefix(path, l.uri) && (best == nil || len(l.uri) > len(best.uri)) {
				best = l
			}
		}
	}
	if redirected && !named {
		return nil
	}
	if best != nil && best.modifier == "^~" {
		return best
	}
	for i := range all {
		l := &all[i]
		if l.modifier == "~" && regexp.MustCompile(l.uri).MatchString(path) || l.modifier == "~*" && regexp.MustCompile("(?i)"+l.uri).MatchString(path) {
			return l
		}
	}
	return best
}

// send gives what nginx sends for a path.
func send(all []nginxLocation, path string) (host, sent string) {
	l := find(all, path)
	if l == nil || l.host == "" {
		return "", ""
	}
	if l.to != "" {
		return l.host, l.to + strings.TrimPrefix(path, l.uri)
	}
	return l.host, path
}

func TestNginxIsNeverWider(t *testing.T) {
	candidates := somePaths()
	rapid.Check(t, func(t *rapid.T) {
		hosts := []string{"", "x.example.com", "y.example.com", "z.example.com"}
		var all []nginxLocation
		n := rapid.IntRange(1, 6).Draw(t, "n")
		for i := range n {
			l := nginxLocation{
				modifier: rapid.SampledFrom([]string{"", "", "", "^~", "=", "~", "~*"}).Draw(t, "modifier"),
				host:     rapid.SampledFrom(hosts).Draw(t, "host"),
				limit:    rapid.SampledFrom([]string{"", "", "client_max_body_size 1k; "}).Draw(t, "limit"),
			}
			if strings.HasPrefix(l.modifier, "~") {
				l.uri = rapid.SampledFrom([]string{"b$", "^/a", "^/a/.*b", "/ab/", "^/b/[^/]*$", "a+b", "^/(a|b)/a$", "b/", "^/b", "[^/]b/[^/]+$"}).Draw(t, "regex")
			} else {
				l.uri = rapid.SampledFrom([]string{"/", "/a", "/a/", "/a/b", "/a/b/", "/b/", "/ab", "/a/a/", "/B/"}).Draw(t, "uri")
				l.to = rapid.SampledFrom([]string{"", "", "/", "/a/", "/b", "/ab/"}).Draw(t, "to")
			}
			if slices.ContainsFunc(all, func(o nginxLocation) bool {
				return o.uri == l.uri && (o.modifier == "=") == (l.modifier == "=") && !strings.HasPrefix(o.modifier, "~") == !strings.HasPrefix(l.modifier, "~")
			}) {
				continue
			}
			_ = i
			all = append(all, l)
		}
		var b strings.Builder
		b.WriteString("http { server {\n")
		for _, l := range all {
			if l.host == "" {
				fmt.Fprintf(&b, "location %s %s { return 403; }\n", l.modifier, l.uri)
			} else {
				fmt.Fprintf(&b, "location %s %s { %sproxy_pass http://%s%s; }\n", l.modifier, l.uri, l.limit, l.host, l.to)
			}
		}
		b.WriteString("}}\n")
		yaml, notes, complete, err := converted(t, "model.conf", []byte(b.String()))
		if err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		p := load(t, yaml)
		for _, host := range hosts[1:] {
			for _, path := range candidates {
				if allowed(p, host, path, "GET") && !slices.ContainsFunc(all, func(l nginxLocation) bool {
					before := path
					if l.to != "" {
						rest, ok := strings.CutPrefix(path, l.to)
						if !ok {
							return false
						}
						before = l.uri + rest
					}
					h, s := send(all, before)
					return l.host == host && h == host && s == path
				}) {
					t.Fatalf("http://%s%s is allowed and nginx never sent it:\n%s\n%s\n%s", host, path, b.String(), yaml, notes)
				}
			}
		}
		// Where nothing was left out, nothing is missing but what shares an origin.
		perHost := make(map[string]int)
		folded := false
		for _, l := range all {
			perHost[l.host]++
			folded = folded || strings.HasPrefix(l.modifier, "~")
		}
		if !complete || folded {
			return
		}
		for _, path := range candidates {
			// A refusal holds for a path with and without its final slash.
			twin := path + "/"
			if bare, ok := strings.CutSuffix(path, "/"); ok {
				twin = bare
			}
			h, _ := send(all, path)
			if o, _ := send(all, twin); o != h {
				continue
			}
			if host, sent := send(all, path); host != "" && perHost[host] == 1 && !strings.Contains(sent, "//") && !allowed(p, host, sent, "GET") {
				t.Fatalf("nginx sent %s to http://%s%s, which is refused:\n%s\n%s\n%s", path, host, sent, b.String(), yaml, notes)
			}
		}
	})
}

// A kongRoute is one of the model.
type kongRoute struct {
	path    string
	regex   bool
	methods []string
	strip   bool
	host    string
	base    string
}

func (r *kongRoute) matches(method, path string) bool {
	if len(r.methods) > 0 && !slices.Contains(r.methods, method) {
		return false
	}
	if r.regex {
		return regexp.MustCompile("^(?:" + r.path + ")").MatchString(path)
	}
	return strings.HasPrefix(path, r.path)
}

// before reports whether Kong looks at r before o.
func (r *kongRoute) before(o *kongRoute) bool {
	if len(r.methods) > 0 != (len(o.methods) > 0) {
		return len(r.methods) > 0
	}
	if r.regex != o.regex {
		return r.regex
	}
	return !r.regex && len(r.path) > len(o.path)
}

// send gives what Kong sends upstream, by Kong's own rules for joining paths
// (path_handling v0).
func (r *kongRoute) send(path string) string {
	base := r.base
	if base == "" {
		base = "/"
	}
	rest := path[1:]
	if r.strip {
		matched := r.path
		if r.regex {
			matched = regexp.MustCompile("^(?:" + r.path + ")").FindString(path)
		}
		rest = path[len(matched):]
		switch {
		case rest == "" && base == "/":
			return "/"
		case rest == "" && strings.HasSuffix(base, "/"):
			if strings.HasSuffix(path, "/") {
				return base
			}
			return strings.TrimSuffix(base, "/")
		case rest == "" && len(path) > 1 && strings.HasSuffix(path, "/"):
			return base + "/"
		case rest == "":
			return base
		}
		return strings.TrimSuffix(base, "/") + "/" + strings.TrimPrefix(rest, "/")
	}
	if strings.HasSuffix(base, "/") {
		return base + rest
	}
	if path == "/" {
		return base
	}
	return base + path
}

func TestKongIsNeverWider(t *testing.T) {
	candidates := somePaths()
	methods := []string{"GET", "POST"}
	rapid.Check(t, func(t *rapid.T) {
		hosts := []string{"x.example.com", "y.example.com", "z.example.com"}
		var all []kongRoute
		n := rapid.IntRange(1, 5).Draw(t, "n")
		for range n {
			r := kongRoute{
				regex: rapid.IntRange(0, 3).Draw(t, "kind") == 0,
				strip: rapid.Bool().Draw(t, "strip"),
				host:  rapid.SampledFrom(hosts).Draw(t, "host"),
				base:  rapid.SampledFrom([]string{"", "", "/a", "/b"}).Draw(t, "base"),
			}
			if r.regex {
				r.path = rapid.SampledFrom([]string{"/a/b$", "/a", "/a/.*b", "/[^/]*/b", "/(a|b)/a", "/b+"}).Draw(t, "regex")
			} else {
				r.path = rapid.SampledFrom([]string{"/", "/a", "/a/", "/a/b", "/b", "/ab"}).Draw(t, "path")
			}
			if rapid.IntRange(0, 2).Draw(t, "asks") == 0 {
				r.methods = []string{rapid.SampledFrom(methods).Draw(t, "method")}
			}
			all = append(all, r)
		}
		var b strings.Builder
		b.WriteString("_format_version: \"3.0\"\nservices:\n")
		for i, r := range all {
			mark := ""
			if r.regex {
				mark = "~"
			}
			asks := ""
			if len(r.methods) > 0 {
				asks = ", methods: [" + r.methods[0] + "]"
			}
			fmt.Fprintf(&b, "- { name: s%d, url: 'http://%s%s', routes: [{ name: r%d, paths: ['%s%s'], strip_path: %v%s }] }\n", i, r.host, r.base, i, mark, r.path, r.strip, asks)
		}
		yaml, notes, _, err := converted(t, "model.yml", []byte(b.String()))
		if err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		p := load(t, yaml)
		sent := make(map[string]bool)
		for _, path := range manyPaths() {
			for _, m := range methods {
				var best *kongRoute
				for i := range all {
					if r := &all[i]; r.matches(m, path) && (best == nil || r.before(best)) {
						best = r
					}
				}
				if best != nil {
					sent[m+" "+best.host+best.send(path)] = true
				}
			}
		}
		for _, host := range hosts {
			for _, path := range candidates {
				for _, m := range methods {
					if allowed(p, host, path, m) && !sent[m+" "+host+path] && !sent[m+" "+host+strings.TrimSuffix(path, "/")] {
						t.Fatalf("%s http://%s%s is allowed and Kong never sent it:\n%s\n%s\n%s", m, host, path, b.String(), yaml, notes)
					}
				}
			}
		}
	})
}

// manyPaths are enough for whatever is left of them to be any of somePaths.
var manyPaths = func() func() []string {
	var all []string
	for _, front := range []string{"", "/a", "/a/", "/a/b", "/b", "/ab", "/a/b/", "/a/a", "/b/a", "/ab/b", "/bb"} {
		for _, p := range somePaths() {
			all = append(all, front+p)
			all = append(all, front+p[1:])
		}
	}
	all = slices.DeleteFunc(all, func(p string) bool { return !strings.HasPrefix(p, "/") || strings.Contains(p, "//") })
	slices.Sort(all)
	all = slices.Compact(all)
	return func() []string { return all }
}()
