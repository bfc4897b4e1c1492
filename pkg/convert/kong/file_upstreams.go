package kong

import (
	"sallyport/pkg/config"
)

func (r *reader) upstream(v config.Value) {
	u := &upstream{
		entity: r.entity(v), algorithm: r.text(v.Get("algorithm"), "algorithm"),
		hashOn: r.text(v.Get("hash_on"), "hash_on"), hashHeader: r.text(v.Get("hash_on_header"), "hash_on_header"), hashLine: v.Get("hash_on").Line(),
		hostHeader:  r.text(v.Get("host_header"), "host_header"),
		certificate: v.Get("client_certificate").Line(),
		unread: rest(v, "algorithm", "hash_on", "hash_on_header", "hash_fallback", "hash_fallback_header", "host_header", "targets", "healthchecks",
			"slots", "client_certificate"),
	}
	if u.name == "" {
		r.wrong(u.line, "an upstream without a name")
	}
	for _, t := range r.list(v, "targets") {
		u.targets = append(u.targets, r.target(t))
	}
	if h := v.Get("healthchecks"); h.IsMapping() {
		if a := h.Get("active"); a.IsMapping() {
			u.active = r.check(a)
		}
		if p := h.Get("passive"); p.IsMapping() {
			u.passive = r.check(p)
		}
		u.unread = append(u.unread, rest(h, "active", "passive")...)
	}
	r.f.upstreams = append(r.f.upstreams, u)
}

func (r *reader) target(v config.Value) target {
	return target{v.Line(), r.text(v.Get("target"), "target"), r.integer(v.Get("weight"), "weight", 100)}
}

// looseTarget reads a target that names its upstream.
func (r *reader) looseTarget(v config.Value) {
	ref := r.ref(v.Get("upstream"), "upstream")
	for _, u := range r.f.upstreams {
		if u.is(ref) {
			u.targets = append(u.targets, r.target(v))
			return
		}
	}
	r.wrong(v.Line(), "target: upstream %q is nowhere in the file", ref)
}

func (r *reader) check(v config.Value) *check {
	healthy, unhealthy := v.Get("healthy"), v.Get("unhealthy")
	c := &check{
		line: v.Line(), kind: r.text(v.Get("type"), "type"), path: r.text(v.Get("http_path"), "http_path"),
		timeout:           r.number(v.Get("timeout"), "timeout", 1),
		healthyInterval:   r.number(healthy.Get("interval"), "interval", 0),
		unhealthyInterval: r.number(unhealthy.Get("interval"), "interval", 0),
		successes:         r.integer(healthy.Get("successes"), "successes", 0),
		http:              r.integer(unhealthy.Get("http_failures"), "http_failures", 0),
		tcp:               r.integer(unhealthy.Get("tcp_failures"), "tcp_failures", 0),
		timeouts:          r.integer(unhealthy.Get("timeouts"), "timeouts", 0),
		healthyStatuses:   r.integers(healthy.Get("http_statuses"), "http_statuses"),
		unhealthyStatuses: r.integers(unhealthy.Get("http_statuses"), "http_statuses"),
		unhealthyLine:     unhealthy.Get("http_statuses").Line(),
		unread:            rest(v, "type", "http_path", "timeout", "concurrency", "healthy", "unhealthy"),
	}
	c.unread = append(c.unread, rest(healthy, "interval", "successes", "http_statuses")...)
	c.unread = append(c.unread, rest(unhealthy, "interval", "http_failures", "tcp_failures", "timeouts", "http_statuses")...)
	return c
}
