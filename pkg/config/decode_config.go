package config

import (
	"crypto/tls"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
)

// Default gives the configuration that holds where there is no file, in the
// given mode. The caller may change it: nobody else has it.
func Default(mode Mode) *Config {
	c := base()
	c.Mode = mode
	c.derive()
	return c
}

// base gives the defaults that do not derive from others.
func base() *Config {
	return &Config{
		Version:    1,
		Mode:       Enforce,
		Default:    Deny,
		StateDir:   "/var/lib/sallyport",
		RuntimeDir: "/run/sallyport",
		BPFDir:     "/sys/fs/bpf/sallyport",
		NFTTable:   "sallyport",
		Slice:      "mcp.slice",
		Listen:     Listen{TCP: 15001, DNS: 15053},
		Admin:      Admin{Group: "sallyport"},
		Metrics:    Metrics{Listen: netip.MustParseAddrPort("127.0.0.1:9595")},
		Log:        Log{Level: LevelInfo, Format: FormatJSON},
		TLS:        TLS{MinVersion: tls.VersionTLS12, OnPinned: PinnedBlock},
		Timeouts: Timeouts{
			Connect: 10 * time.Second, ResponseHeader: 10 * time.Minute, Idle: 10 * time.Minute,
			Sniff: 10 * time.Second, Drain: 30 * time.Second,
		},
		Audit: Audit{
			Sinks:     []Sink{SinkFile},
			File:      AuditFile{Path: "/var/log/sallyport/audit.jsonl", MaxSize: 100e6, MaxFiles: 10},
			Syslog:    AuditSyslog{Address: SyslogAddress{Network: "unix", Address: LocalSyslog}, Facility: DefaultSyslogFacility},
			OnFailure: FailBlock,
		},
		Redis: Redis{Address: "127.0.0.1:6379", Prefix: "sallyport:", Timeout: 100 * time.Millisecond},
		Cache: Cache{MaxBytes: 64e6},
	}
}

// derive fills in the defaults that follow from other keys.
func (c *Config) derive() {
	if c.TLS.CADir == "" {
		c.TLS.CADir = path.Join(c.StateDir, "ca")
	}
	if c.Admin.Socket == "" {
		c.Admin.Socket = path.Join(c.RuntimeDir, "admin.sock")
	}
	for i := range c.Rules {
		r := &c.Rules[i]
		if r.Action != Allow || r.Handling == Direct {
			continue
		}
		if r.Timeouts == nil {
			r.Timeouts = c.Defaults.Timeouts
		}
		if r.UpstreamProxy == nil {
			r.UpstreamProxy = c.Defaults.UpstreamProxy
		}
		if r.Handling != Inspect {
			continue
		}
		if r.UpstreamTLS == nil {
			r.UpstreamTLS = c.Defaults.UpstreamTLS
		}
		r.Stages.inherit(&c.Defaults.Stages, r.Without)
	}
}

// config reads the whole file.
func (d *decoder) config(n *node) *Config {
	c := base()
	// A section of which everything is commented out is as if it were not there.
	section := func(key string, read func(n *node)) field {
		return field{key, func(n *node) {
			if !n.isNull() {
				read(n)
			}
		}}
	}
	var rules, workloads, defaults *node
	d.object(n, "",
		field{"version", func(n *node) { d.integer(n, "version", 1, 1) }},
		field{"mode", func(n *node) { word(d, n, "mode", &c.Mode, Enforce, Observe) }},
		field{"default", func(n *node) { word(d, n, "default", &c.Default, Allow, Deny) }},
		field{"state_dir", func(n *node) { d.file(n, "state_dir", &c.StateDir) }},
		field{"runtime_dir", func(n *node) { d.file(n, "runtime_dir", &c.RuntimeDir) }},
		field{"bpf_dir", func(n *node) { d.file(n, "bpf_dir", &c.BPFDir) }},
		field{"nft_table", func(n *node) { d.identifier(n, "nft_table", 63, "_-.", &c.NFTTable) }},
		field{"slice", func(n *node) { d.slice(n, &c.Slice) }},
		section("listen", func(n *node) {
			d.object(n, "listen",
				field{"tcp", func(n *node) { d.port(n, "listen.tcp", 0, &c.Listen.TCP) }},
				field{"dns", func(n *node) { d.port(n, "listen.dns", 0, &c.Listen.DNS) }})
		}),
		section("admin", func(n *node) {
			d.object(n, "admin",
				field{"socket", func(n *node) { d.socket(n, &c.Admin.Socket) }},
				field{"group", func(n *node) { d.identifier(n, "admin.group", 32, "_-.", &c.Admin.Group) }})
		}),
		section("metrics", func(n *node) {
			d.object(n, "metrics", field{"listen", func(n *node) { d.listenAddress(n, &c.Metrics.Listen) }})
		}),
		section("log", func(n *node) {
			d.object(n, "log",
				field{"level", func(n *node) {
					word(d, n, "log.level", &c.Log.Level, LevelDebug, LevelInfo, LevelWarn, LevelError)
				}},
				field{"format", func(n *node) { word(d, n, "log.format", &c.Log.Format, FormatJSON, FormatConsole) }})
		}),
		section("tls", func(n *node) { d.tls(n, &c.TLS) }),
		section("dns", func(n *node) {
			d.object(n, "dns",
				field{"upstreams", func(n *node) { d.nameservers(n, &c.DNS) }},
				field{"allow_unlisted", func(n *node) { d.boolean(n, "dns.allow_unlisted", &c.DNS.AllowUnlisted) }})
		}),
		section("timeouts", func(n *node) { d.timeouts(n, &c.Timeouts) }),
		section("audit", func(n *node) { d.audit(n, &c.Audit) }),
		section("upstream_proxy", func(n *node) { c.UpstreamProxy = *d.upstreamProxy(n, "upstream_proxy", false) }),
		section("redis", func(n *node) { d.redis(n, &c.Redis) }),
		section("cache", func(n *node) { d.cache(n, &c.Cache) }),
		section("defaults", func(n *node) {
			defaults = n
			d.defaults(n, &c.Defaults)
		}),
		section("upstreams", func(n *node) { c.Upstreams = d.upstreams(n) }),
		section("workloads", func(n *node) { workloads = n }),
		section("rules", func(n *node) { rules = n }),
	)
	// A socket path that derives must fit as well.
	if c.Admin.Socket == "" && len(c.RuntimeDir) > maxSocket-len("/admin.sock") {
		d.add(n.get("runtime_dir").value.place, "runtime_dir: longer than %d bytes: admin.sock in it would be too long", maxSocket-len("/admin.sock"))
	}
	if workloads != nil {
		c.Workloads = d.workloads(workloads)
	}
	if rules != nil {
		c.Rules = d.rules(rules, c)
	}
	c.derive()
	d.checkStages(rules, defaults, c)
	if rules != nil && len(c.Rules) > 0 && len(c.UpstreamProxies()) > 0 {
		d.checkReserved(rules.items, c.Rules)
	}
	return c
}

// defaults reads what holds for each rule that does not set the key itself.
func (d *decoder) defaults(n *node, into *Defaults) {
	const path = "defaults"
	d.object(n, path, append(d.stages(path, &into.Stages, nil),
		field{"upstream_proxy", func(n *node) { into.UpstreamProxy = d.upstreamProxy(n, path+".upstream_proxy", true) }},
		field{"upstream_tls", func(n *node) { into.UpstreamTLS = d.upstreamTLS(n, path+".upstream_tls") }},
		field{"timeouts", func(n *node) { into.Timeouts = d.ruleTimeouts(n, path+".timeouts") }},
	)...)
}

// maxSocket is the room of sun_path without its final NUL (unix(7)).
const maxSocket = 107

func (d *decoder) socket(n *node, into *string) {
	if n.kind == scalar && len(n.value) > maxSocket {
		d.add(n.place, "admin.socket: longer than %d bytes", maxSocket)
		return
	}
	d.file(n, "admin.socket", into)
}

// slice reads the name of a systemd slice; systemd itself owns "-.slice".
func (d *decoder) slice(n *node, into *string) {
	s, ok := d.text(n, "slice")
	if !ok {
		return
	}
	name, ok := strings.CutSuffix(s, ".slice")
	if !ok || checkIdentifier(name, 200, "_-.:") != nil || strings.Contains(name, "--") || strings.HasSuffix(name, "-") {
		d.add(n.place, "slice: want the name of a slice such as mcp.slice, found %q", s)
		return
	}
	// systemd.special(7). Whoever captures these captures the host itself, and
	// ends it with `teardown --stop`.
	if name == "system" || name == "user" || name == "init" {
		d.add(n.place, "slice: %s holds the host's own services and logins: name one of your own, such as mcp.slice", s)
		return
	}
	*into = s
}

// listenAddress reads "address:port"; "" turns the listener off.
func (d *decoder) listenAddress(n *node, into *netip.AddrPort) {
	s, ok := d.text(n, "metrics.listen")
	if !ok {
		return
	}
	if s == "" {
		*into = netip.AddrPort{}
		return
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Addr().Zone() != "" {
		d.add(n.place, `metrics.listen: want an address with a port such as "127.0.0.1:9595", or "" for off, found %q`, s)
		return
	}
	*into = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func (d *decoder) nameservers(n *node, into *DNS) {
	d.items(n, "dns.upstreams", func(n *node) {
		s, ok := d.text(n, "dns.upstreams")
		if !ok {
			return
		}
		if s == "original" {
			if into.Original || len(into.Upstreams) > 0 {
				// An answer of another server would be one: names that only the
				// original one knows would never be found.
				d.add(n.place, `dns.upstreams: "original" must stand once and first`)
			}
			into.Original = true
			return
		}
		a, err := netip.ParseAddrPort(s)
		if err != nil {
			var addr netip.Addr
			addr, err = netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
			a = netip.AddrPortFrom(addr, 53)
		}
		if err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
			d.add(n.place, "dns.upstreams: want an address such as 192.0.2.53 or 192.0.2.53:5353, or original, found %q", s)
			return
		}
		into.Upstreams = append(into.Upstreams, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
	})
}

func (d *decoder) tls(n *node, t *TLS) {
	d.object(n, "tls",
		field{"ca_dir", func(n *node) { d.file(n, "tls.ca_dir", &t.CADir) }},
		field{"upstream_ca_files", func(n *node) {
			d.items(n, "tls.upstream_ca_files", func(n *node) {
				var name string
				if d.file(n, "tls.upstream_ca_files", &name); name != "" {
					t.UpstreamCAFiles = append(t.UpstreamCAFiles, name)
				}
			})
		}},
		field{"min_version", func(n *node) {
			var v string
			switch word(d, n, "tls.min_version", &v, "1.2", "1.3"); v {
			case "1.2":
				t.MinVersion = tls.VersionTLS12
			case "1.3":
				t.MinVersion = tls.VersionTLS13
			}
		}},
		field{"on_pinned", func(n *node) {
			word(d, n, "tls.on_pinned", &t.OnPinned, PinnedBlock, PinnedTunnel)
		}},
	)
}

func (d *decoder) timeouts(n *node, t *Timeouts) {
	read := func(key string, low time.Duration, into *time.Duration) field {
		return field{key, func(n *node) {
			if v, ok := d.duration(n, "timeouts."+key, low); ok {
				*into = v
			}
		}}
	}
	d.object(n, "timeouts",
		read("connect", time.Millisecond, &t.Connect),
		read("response_header", time.Millisecond, &t.ResponseHeader),
		read("idle", time.Millisecond, &t.Idle),
		read("sniff", time.Millisecond, &t.Sniff),
		read("drain", 0, &t.Drain),
		read("stream_idle", 0, &t.StreamIdle),
	)
}

// ruleTimeouts reads the timeouts that can differ from rule to rule. The others
// belong to a connection, on which many rules may decide.
func (d *decoder) ruleTimeouts(n *node, path string) *RuleTimeouts {
	t := &RuleTimeouts{}
	read := func(key string, low time.Duration, into **time.Duration) field {
		return field{key, func(n *node) {
			if v, ok := d.duration(n, path+"."+key, low); ok {
				*into = &v
			}
		}}
	}
	connectionKey := func(key string) field {
		return field{key, func(n *node) {
			d.add(n.place, "%s%s holds for whole connections: set it in the top-level timeouts", prefix(path), key)
		}}
	}
	fields := []field{
		read("connect", time.Millisecond, &t.Connect),
		read("response_header", time.Millisecond, &t.ResponseHeader),
		read("stream_idle", 0, &t.StreamIdle),
	}
	if d.fields == nil {
		fields = append(fields, connectionKey("idle"), connectionKey("sniff"), connectionKey("drain"))
	}
	d.object(n, path, fields...)
	return t
}

func (d *decoder) audit(n *node, a *Audit) {
	d.object(n, "audit",
		field{"sinks", func(n *node) {
			a.Sinks = nil
			d.some(n, "audit.sinks", func(n *node) {
				var s Sink
				switch word(d, n, "audit.sinks", &s, SinkFile, SinkJournald, SinkSyslog); {
				case s == "":
				case slices.Contains(a.Sinks, s):
					d.add(n.place, "audit.sinks: %s is given twice", s)
				default:
					a.Sinks = append(a.Sinks, s)
				}
			})
		}},
		field{"file", func(n *node) {
			d.object(n, "audit.file",
				field{"path", func(n *node) { d.file(n, "audit.file.path", &a.File.Path) }},
				field{"max_size", func(n *node) {
					d.size(n, "audit.file.max_size", MinAuditFileSize, 1<<40, &a.File.MaxSize)
				}},
				field{"max_files", func(n *node) { d.count(n, "audit.file.max_files", 1, 1000, &a.File.MaxFiles) }})
		}},
		field{"syslog", func(n *node) {
			d.object(n, "audit.syslog",
				field{"address", func(n *node) {
					s, ok := d.text(n, "audit.syslog.address")
					if !ok {
						return
					}
					address, err := ParseSyslogAddress(s)
					if err != nil {
						d.add(n.place, "audit.syslog.address: %v", err)
						return
					}
					a.Syslog.Address = address
				}},
				field{"facility", func(n *node) {
					word(d, n, "audit.syslog.facility", &a.Syslog.Facility, SyslogFacilities()...)
				}})
		}},
		field{"on_failure", func(n *node) { word(d, n, "audit.on_failure", &a.OnFailure, FailBlock, FailContinue) }},
	)
}
