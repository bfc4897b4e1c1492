package main

import (
	"fmt"
	"strconv"
)

// A system is one way from a client to an origin.
type system struct {
	name      string
	client    *client
	address   string // where the client connects to
	issuer    string // who must have signed what it sees
	host      string // where it is not the comparison's name
	processes []int  // whose processor time counts; none without a proxy
	keeper    int    // one of them, shown apart
	book      *book
}

// A book compares what clients were answered with what a proxy has logged.
type book struct {
	name   string
	served int
	lines  func() (int, error)
}

// A comparison is one case: what is asked of which systems, and the rows of the
// table that come of it.
type comparison struct {
	name, title string
	job         job
	systems     []system
	pooled      bool // upstream connections must be shared
	parts       int  // a round measures the systems so many times in turn, each for a part of the window, and keeps the middle one
	quickest    bool // or the quickest: what disturbs only ever makes slower
	special     func(c *comparison, round int) (map[string]sample, error)
	rows        []row
	figures     []figure // columns of the absolute figures

	samples map[string][]sample // by system, one a round
	failure error               // ends the case, and misses its bars
}

// A row is one line of the table.
type row struct {
	title, against string
	bar            bar
	values         func(samples map[string][]sample) []float64 // one a round
}

// The names of systems.
const (
	direct      = "direct"
	nginxName   = "nginx"
	haproxyName = "HAProxy"
	splitName   = "sslsplit"
	levelName   = "sslsplit, P-256 leaf"
	inspect     = "inspect"
	tunnel      = "tunnel"
	ruled       = "direct rule"
	many        = "inspect, 10,000 rules"
	controlled  = "inspect, with controls"
	fromCache   = "inspect, from the cache"
)

// The names of cases.
const (
	caseIdle     = "idle"
	caseHTTP1    = "h1"
	caseHTTP2    = "h2"
	caseConnect  = "connect"
	caseFirst    = "first"
	caseBulk     = "bulk"
	caseDirect   = "direct"
	caseDial     = "dial"
	caseEvents   = "events"
	caseRules    = "rules"
	caseControls = "controls"
	caseCache    = "cache"
)

var caseNames = [...]string{caseIdle, caseHTTP1, caseHTTP2, caseConnect, caseFirst, caseBulk, caseDirect, caseDial, caseEvents, caseRules, caseControls, caseCache}

// comparisons lists all cases. many is nil where no case needs it.
func (m *machine) comparisons(p *peers, g, manyRules *gate, o *options) []comparison {
	at := func(address string) string { return address + ":443" }
	local := func(port int) string { return loopback + ":" + strconv.Itoa(port) }
	gateBook := &book{name: "sallyport", lines: g.exchanges}
	nginxBook := &book{name: "nginx", lines: p.nginx.lines}
	haproxyBook := &book{name: "HAProxy", lines: p.haproxy.lines}
	viaSplit := func(name string, port int, x *peer) system {
		return system{
			name: name, client: p.client, address: local(port), issuer: sslsplitIssuer, processes: x.processes,
			book: &book{name: name, lines: x.lines},
		}
	}
	inspected := func(address string) system {
		return system{name: inspect, client: g.client, address: address, issuer: sallyportIssuer, processes: g.processes(), keeper: g.keeper, book: gateBook}
	}
	plain := func(address string) system {
		return system{name: direct, client: p.client, address: address, issuer: originIssuer}
	}
	viaNginx := system{name: nginxName, client: p.client, address: local(nginxPort), issuer: nginxIssuer, processes: p.nginx.processes, book: nginxBook}
	viaHAProxy := func(port int) system {
		return system{name: haproxyName, client: p.client, address: local(port), issuer: haproxyIssuer, processes: p.haproxy.processes, book: haproxyBook}
	}
	tunnelled := inspected(at(originAddress))
	tunnelled.name, tunnelled.issuer, tunnelled.host, tunnelled.book = tunnel, originIssuer, tunnelName, nil
	limited := inspected(at(originAddress))
	limited.name, limited.host = controlled, controlledName
	stored := inspected(at(originAddress))
	stored.name, stored.host = fromCache, cachedName
	// Without sallyport on the way its processes still count: what they use then
	// is what they use for themselves.
	open := fmt.Sprintf("%s:%d", originAddress, directPort)
	past := system{name: ruled, client: g.client, address: open, processes: g.processes(), keeper: g.keeper}
	without := system{name: direct, client: p.client, address: open, processes: g.processes(), keeper: g.keeper}
	captured := system{name: inspect, client: g.client, address: at(originAddress), processes: g.processes(), keeper: g.keeper}
	uncaptured := system{name: direct, client: p.client, address: at(originAddress)}
	// Only to compare: the same distance as to our listener.
	nearby := system{name: "direct, to loopback", client: p.client, address: local(nginxPort)}

	request := []figure{rate, p50, p99, cpu, keeperCPU}
	ten := []system{}
	if manyRules != nil {
		x := inspected(at(originAddress))
		x.name, x.client, x.processes, x.keeper = many, manyRules.client, manyRules.processes(), manyRules.keeper
		x.book = &book{name: "sallyport with 10,000 rules", lines: manyRules.exchanges}
		ten = []system{inspected(at(originAddress)), x}
	}
	requests := func(kind, name string, connections int) job {
		return job{Kind: kind, Name: name, Connections: connections, Window: o.window}
	}
	h2 := requests(multiplex, h2Name, 4)
	h2.Streams = 32
	pages := requests(keepAlive, inspectName, o.connections)
	pages.Page = true
	first := requests(newNames, firstSuffix, 8)
	first.P256 = true // all that sslsplit knows
	return []comparison{
		{
			// First, while the peers are fresh.
			name: caseIdle, title: "Memory of idle connections on fresh processes", special: m.idleMemory,
			job: job{Kind: idle, Name: inspectName}, systems: []system{viaNginx, viaHAProxy(haproxyH1Port), inspected(at(originAddress))},
			figures: []figure{startRSS, filledRSS, perConnection},
			rows: []row{
				{"idle inspected connection, memory", "(nginx, HAProxy)", atMost(24, 14, " KB", 1), valueOf(perConnection, inspect)},
			},
		},
		{
			name: caseHTTP1, title: "1 KB answers, HTTP/1.1 keep-alive", job: requests(keepAlive, inspectName, o.connections),
			systems: []system{plain(at(originAddress)), viaNginx, inspected(at(originAddress))}, figures: request,
			rows: []row{
				{"HTTP/1.1 keep-alive 1 KB, CPU per request", nginxName, atMost(1.15, 0.8, " ×", 2), ratioOf(cpu, inspect, nginxName)},
				{"the same, requests/s", nginxName, atLeast(0.9, 1.2, " ×", 2), ratioOf(rate, inspect, nginxName)},
				{"the same, p99", nginxName, atMost(1.2, 1.0, " ×", 2), ratioOf(p99, inspect, nginxName)},
			},
		},
		{
			name: caseHTTP2, title: "1 KB answers, HTTP/2 on both legs, 4 connections of 32 streams", job: h2,
			systems: []system{plain(at(originH2Address)), viaHAProxy(haproxyH2Port), inspected(at(originH2Address))}, figures: request,
			rows: []row{
				{"HTTP/2 multiplexed 1 KB, CPU per request", haproxyName, atMost(1.5, 1.0, " ×", 2), ratioOf(cpu, inspect, haproxyName)},
			},
		},
		{
			name: caseConnect, title: "A connection and a full handshake for each 1 KB answer", job: requests(connect, inspectName, 8), pooled: true,
			systems: []system{viaHAProxy(haproxyH1Port), inspected(at(originAddress))}, figures: append(request, accepted),
			rows: []row{
				{"new connection per request, CPU", haproxyName, atMost(1.0, 0.7, " ×", 2), ratioOf(cpu, inspect, haproxyName)},
			},
		},
		{
			name: caseFirst, title: "A new name for each 1 KB answer", job: first,
			systems: []system{
				viaSplit(splitName, sslsplitPort, &p.sslsplit), viaSplit(levelName, levelSplitPort, &p.levelSplit),
				inspected(at(originOwnAddress)),
			}, figures: request,
			rows: []row{
				{"first contact with a new name, CPU", splitName, atMost(0.45, 0.3, " ×", 2), ratioOf(cpu, inspect, splitName)},
			},
		},
		{
			name: caseBulk, title: "One body of 256 MB", job: job{Kind: bulk, Name: inspectName}, parts: 3,
			systems: []system{viaNginx, inspected(at(originAddress)), tunnelled}, figures: []figure{speed, cpuPerGB, peak},
			rows: []row{
				{"256 MB body inspected, CPU per GB", nginxName, atMost(1.0, 0.8, " ×", 2), ratioOf(cpuPerGB, inspect, nginxName)},
				{"256 MB tunnelled, CPU per GB", "our own inspect", atMost(0.6, 0.5, " ×", 2), ratioOf(cpuPerGB, tunnel, inspect)},
			},
		},
		{
			name: caseDirect, title: "Bodies of 256 MB without TLS, past the proxy", job: requests(plainBulk, inspectName, 1), parts: 5, quickest: true,
			systems: []system{without, past}, figures: []figure{speed, cpuPerGB},
			rows: []row{
				{"`direct` flow, throughput", "no sallyport", atLeast(0.95, 1.0, " ×", 2), ratioOf(speed, ruled, direct)},
				{"`direct` flow, proxy's CPU per GB", "its own when idle", atMost(directCPU, directCPU/2, " s", 3), differenceOf(cpuPerGB, ruled, direct)},
			},
		},
		{
			name: caseDial, title: "connect() alone", job: job{Kind: dial, Window: o.window}, parts: 7, quickest: true,
			systems: []system{uncaptured, captured, nearby}, figures: []figure{p50, p99},
			rows: []row{
				{"connect() added by capture", "no sallyport", atMost(15, 5, " µs", 1), differenceOf(p50, inspect, direct)},
			},
		},
		{
			name: caseEvents, title: fmt.Sprintf("Server-sent events, one every %s on each of 16 streams", eventPause), job: requests(events, eventsName, 16),
			systems: []system{plain(at(originOwnAddress)), inspected(at(originOwnAddress))}, figures: []figure{p50, p99, cpu},
			rows: []row{
				{"server-sent events, delay added at p99", "no sallyport", atMost(5, 1, " ms", 2), scaled(1e-3, differenceOf(p99, inspect, direct))},
			},
		},
		{
			name: caseRules, title: "1 KB answers, HTTP/1.1 keep-alive, a policy of 10,000 rules", job: requests(keepAlive, inspectName, o.connections),
			systems: ten, figures: request,
			rows: []row{
				{"10,000 rules instead of 100, CPU per request", "our own 100", atMost(1.15, 1.0, " ×", 2), ratioOf(cpu, many, inspect)},
			},
		},
		{
			name: caseControls, title: "1 KB answers, HTTP/1.1 keep-alive, a rule with rate limits, size limits and headers", job: requests(keepAlive, inspectName, o.connections),
			systems: []system{inspected(at(originAddress)), limited}, figures: request, parts: 3,
			rows: []row{
				{"rate limit, size limit, headers on a rule, CPU added per request", "our own bare rule", atMost(3, 1.5, " µs", 1), differenceOf(cpu, controlled, inspect)},
			},
		},
		{
			name: caseCache, title: "16 KB answers, HTTP/1.1 keep-alive, from the cache", job: pages,
			systems: []system{inspected(at(originAddress)), stored}, figures: request, parts: 3,
			rows: []row{
				{"an answer of 16 KB from the cache, CPU per request", "our own way upstream", atMost(0.5, 0.4, " ×", 2), ratioOf(cpu, fromCache, inspect)},
			},
		},
	}
}

// directCPU is what "no processor time" means in s/GB: a hundredth of what
// inspecting costs, and about what a probe in the background makes uncertain.
const directCPU = 0.02
