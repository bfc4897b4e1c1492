package config

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Show writes the effective configuration, defaults filled in, as YAML that
// Parse accepts and that gives the same Config.
func (c *Config) Show() []byte {
	out, err := yaml.Dump(c.document())
	if err != nil {
		panic(fmt.Sprintf("config: cannot write a configuration that was read: %v", err))
	}
	return out
}

// ShowJSON writes what Show does as a JSON object.
func (c *Config) ShowJSON() []byte { return appendJSON(nil, c.document()) }

// appendJSON writes a node that document made. Numbers and booleans are written
// alike in YAML and JSON there.
func appendJSON(b []byte, n *yaml.Node) []byte {
	switch {
	case n.Kind == yaml.MappingNode:
		b = append(b, '{')
		for i := 0; i+1 < len(n.Content); i += 2 {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendJSON(b, n.Content[i]), ':')
			b = appendJSON(b, n.Content[i+1])
		}
		return append(b, '}')
	case n.Kind == yaml.SequenceNode:
		b = append(b, '[')
		for i, item := range n.Content {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, item)
		}
		return append(b, ']')
	case n.Tag == "!!str":
		// A configuration is UTF-8, and a string of that always has a form.
		quoted, _ := json.Marshal(n.Value)
		return append(b, quoted...)
	default:
		return append(b, n.Value...)
	}
}

// document is the effective configuration as YAML has it.
func (c *Config) document() *yaml.Node {
	var upstreams []string
	if c.DNS.Original {
		upstreams = append(upstreams, "original")
	}
	for _, a := range c.DNS.Upstreams {
		upstreams = append(upstreams, a.String())
	}
	metrics := ""
	if c.Metrics.Listen.IsValid() {
		metrics = c.Metrics.Listen.String()
	}
	return object(
		"version", number(c.Version),
		"mode", text(c.Mode),
		"default", text(c.Default),
		"state_dir", text(c.StateDir),
		"runtime_dir", text(c.RuntimeDir),
		"bpf_dir", text(c.BPFDir),
		"nft_table", text(c.NFTTable),
		"slice", text(c.Slice),
		"listen", object("tcp", number(c.Listen.TCP), "dns", number(c.Listen.DNS)),
		"admin", object("socket", text(c.Admin.Socket), "group", text(c.Admin.Group)),
		"metrics", object("listen", text(metrics)),
		"log", object("level", text(c.Log.Level), "format", text(c.Log.Format)),
		"tls", object(
			"ca_dir", text(c.TLS.CADir),
			"upstream_ca_files", texts(c.TLS.UpstreamCAFiles),
			"min_version", text(versionName(c.TLS.MinVersion)),
			"on_pinned", text(c.TLS.OnPinned)),
		"dns", object("upstreams", texts(upstreams), "allow_unlisted", truth(c.DNS.AllowUnlisted)),
		"timeouts", object(
			"connect", period(c.Timeouts.Connect),
			"response_header", period(c.Timeouts.ResponseHeader),
			"idle", period(c.Timeouts.Idle),
			"sniff", period(c.Timeouts.Sniff),
			"drain", period(c.Timeouts.Drain),
			"stream_idle", period(c.Timeouts.StreamIdle)),
		"audit", object(
			"sinks", texts(c.Audit.Sinks),
			"file", object(
				"path", text(c.Audit.File.Path),
				"max_size", text(c.Audit.File.MaxSize.String()),
				"max_files", number(c.Audit.File.MaxFiles)),
			"syslog", object("address", text(c.Audit.Syslog.Address.String()), "facility", text(c.Audit.Syslog.Facility)),
			"on_failure", text(c.Audit.OnFailure)),
		"upstream_proxy", showUpstreamProxy(&c.UpstreamProxy),
		"redis", showRedis(&c.Redis),
		"cache", object("max_bytes", text(c.Cache.MaxBytes.String())),
		"defaults", showDefaults(&c.Defaults),
		"workloads", showWorkloads(c.Workloads),
		"upstreams", showUpstreams(c.Upstreams),
		"rules", showRules(c.Rules),
	)
}

func showDefaults(d *Defaults) *yaml.Node {
	out := object("timeouts", showTimeouts(d.Timeouts), "upstream_proxy", showUpstreamProxy(d.UpstreamProxy),
		"upstream_tls", showUpstreamTLS(d.UpstreamTLS))
	out.Content = append(out.Content, showStages(&d.Stages, nil)...)
	return style(out)
}

func showWorkloads(all []Workload) *yaml.Node {
	out := object()
	for i := range all {
		w := &all[i]
		var match *yaml.Node
		if m := w.Match; m != nil {
			match = object("unit", showGlobs(m.Unit), "cgroup", showGlobs(m.Cgroup),
				"command", showGlobs(m.Command), "user", showGlobs(m.User), "container", showAll(m.Containers, showContainer))
		}
		listen := make([]*yaml.Node, len(w.Listen))
		for j, p := range w.Listen {
			listen[j] = number(p)
		}
		out.Content = append(out.Content, text(w.Key), object(
			"match", match, "name", text(w.Name), "mode", optional(w.Mode), "listen", flow(listen)))
	}
	return style(out)
}

func showContainer(m *ContainerMatch) *yaml.Node {
	var labels []string
	for _, l := range m.Labels {
		for _, v := range l.Values {
			labels = append(labels, l.Key+"="+v.String())
		}
	}
	return object("name", showGlobs(m.Name), "image", showGlobs(m.Image), "label", some(labels))
}

func showRules(all []Rule) *yaml.Node {
	out := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for i := range all {
		r := &all[i]
		var timeouts *yaml.Node
		if r.Timeouts != nil {
			timeouts = showTimeouts(r.Timeouts)
		}
		entry := object("name", text(r.Name), "match", showMatch(&r.Match), "private", prefixTexts(r.Private),
			"action", text(r.Action), "mode", optional(r.Mode), "timeouts", timeouts,
			"upstream_proxy", showUpstreamProxy(r.UpstreamProxy), "upstream_tls", showUpstreamTLS(r.UpstreamTLS))
		if r.Action == Allow {
			entry.Content = append(entry.Content, text("handling"), text(r.Handling))
		}
		entry.Content = append(entry.Content, showStages(&r.Stages, r.Without)...)
		out.Content = append(out.Content, entry)
	}
	return style(out)
}

func showMatch(m *Match) *yaml.Node {
	hosts := make([]string, len(m.Hosts))
	for i, h := range m.Hosts {
		hosts[i] = h.String()
	}
	ports := make([]*yaml.Node, len(m.Ports))
	for i, p := range m.Ports {
		if ports[i] = number(p.First); p.First != p.Last {
			ports[i] = text(fmt.Sprintf("%d-%d", p.First, p.Last))
		}
	}
	paths := make([]string, len(m.Paths))
	for i, p := range m.Paths {
		paths[i] = p.String()
	}
	var headers *yaml.Node
	if len(m.Headers) > 0 {
		headers = object()
		for _, h := range m.Headers {
			headers.Content = append(headers.Content, text(h.Name), showGlobs(h.Values))
		}
		style(headers)
	}
	var when *yaml.Node
	if m.When != nil {
		when = text(m.When.String())
	}
	out := object("workloads", showGlobs(m.Workloads), "hosts", some(hosts), "cidrs", prefixTexts(m.CIDRs),
		"ports", flowIf(ports), "protocols", some(m.Protocols), "methods", showGlobs(m.Methods),
		"paths", some(paths), "headers", headers, "when", when)
	if len(out.Content) == 0 {
		return nil
	}
	return out
}

func showTimeouts(t *RuleTimeouts) *yaml.Node {
	out := object()
	if t == nil {
		return nil
	}
	for _, f := range []struct {
		key   string
		value *time.Duration
	}{{"connect", t.Connect}, {"response_header", t.ResponseHeader}, {"stream_idle", t.StreamIdle}} {
		if f.value != nil {
			out.Content = append(out.Content, text(f.key), period(*f.value))
		}
	}
	return style(out)
}

func versionName(v uint16) string {
	if v == tls.VersionTLS13 {
		return "1.3"
	}
	return "1.2"
}

// object makes a mapping of keys and values; a nil value leaves the key out.
func object(pairs ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := 0; i+1 < len(pairs); i += 2 {
		if value, ok := pairs[i+1].(*yaml.Node); ok && value != nil {
			n.Content = append(n.Content, text(pairs[i].(string)), value)
		}
	}
	return style(n)
}

// style writes an empty list or mapping as such, not as nothing.
func style(n *yaml.Node) *yaml.Node {
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle
	} else {
		n.Style = 0
	}
	return n
}

func text[T ~string](s T) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: string(s)}
}

func optional[T ~string](s T) *yaml.Node {
	if s == "" {
		return nil
	}
	return text(s)
}

func number[T ~int | ~int64 | ~uint16](v T) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatInt(int64(v), 10)}
}

func truth(v bool) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}
}

// period writes 10m, not 10m0s.
func period(d time.Duration) *yaml.Node {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return text(s)
}

func flow(items []*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq", Style: yaml.FlowStyle, Content: items}
}

func flowIf(items []*yaml.Node) *yaml.Node {
	if len(items) == 0 {
		return nil
	}
	return flow(items)
}

func texts[T ~string](values []T) *yaml.Node {
	items := make([]*yaml.Node, len(values))
	for i, v := range values {
		items[i] = text(v)
	}
	return flow(items)
}

// some is texts for a list that is left out where it is empty.
func some[T ~string](values []T) *yaml.Node {
	if len(values) == 0 {
		return nil
	}
	return texts(values)
}

func showGlobs(g Globs) *yaml.Node {
	values := make([]string, len(g))
	for i := range g {
		values[i] = g[i].String()
	}
	return some(values)
}

func prefixTexts(all []netip.Prefix) *yaml.Node {
	values := make([]string, len(all))
	for i, p := range all {
		values[i] = p.String()
	}
	return some(values)
}
