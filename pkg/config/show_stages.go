package config

import (
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v4"
)

// showStages gives keys and values; those of without are off.
func showStages(s *Stages, without []string) []*yaml.Node {
	shown := map[string]*yaml.Node{
		"auth": showAuth(s.Auth), "size_limit": showSizeLimit(s.SizeLimit),
		"rate_limit": showAll(s.RateLimits, showRateLimit), "throttle": showAll(s.Throttles, showThrottle),
		"content_filter": showAll(s.ContentFilters, showContentFilter), "secrets": optional(s.Secrets),
		"headers": showHeaders(s.Headers), "cache": showRuleCache(s.Cache), "upstream": optional(s.Upstream),
		"retry": showRetry(s.Retry), "log": showBodyLog(s.Log),
	}
	var out []*yaml.Node
	for _, key := range stageKeys {
		value := shown[key]
		if slices.Contains(without, key) {
			value = text(off)
		}
		if value != nil {
			out = append(out, text(key), value)
		}
	}
	return out
}

func showAll[T any](all []T, show func(*T) *yaml.Node) *yaml.Node {
	if len(all) == 0 {
		return nil
	}
	out := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for i := range all {
		out.Content = append(out.Content, show(&all[i]))
	}
	return out
}

func showAuth(a *Auth) *yaml.Node {
	if a == nil {
		return nil
	}
	return object("header", text(a.Header), "secret_file", text(a.SecretFile))
}

func showSizeLimit(l *SizeLimit) *yaml.Node {
	if l == nil {
		return nil
	}
	return object("request", text(l.Request.String()), "response", text(l.Response.String()))
}

// String writes the key as the configuration has it.
func (k CounterKey) String() string {
	if k.By == ByHeader {
		return headerKey + k.Header
	}
	return string(k.By)
}

// String writes the key as the configuration has it.
func (k HashKey) String() string {
	if k.By == HashHeader {
		return headerKey + k.Header
	}
	return string(k.By)
}

// String writes the redaction as the configuration has it.
func (r Redaction) String() string {
	if r.Header != "" {
		return headerKey + r.Header
	}
	return r.Path
}

func showRateLimit(l *RateLimit) *yaml.Node {
	return object("second", number(l.Second), "minute", number(l.Minute), "hour", number(l.Hour), "day", number(l.Day),
		"by", text(l.By.String()), "policy", text(l.Policy),
		"hide_client_headers", truth(l.HideClientHeaders), "fault_tolerant", truth(l.FaultTolerant))
}

func showThrottle(t *Throttle) *yaml.Node {
	rate := strconv.FormatInt(t.Requests, 10) + "r/s"
	if t.Per == time.Minute {
		rate = strconv.FormatInt(t.Requests, 10) + "r/m"
	}
	return object("rate", text(rate), "burst", number(t.Burst), "delay", number(t.Delay), "by", text(t.By.String()), "status", number(t.Status))
}

func showContentFilter(f *ContentFilter) *yaml.Node {
	return object("name", text(f.Name), "pattern", text(f.Pattern), "in", text(f.In), "action", text(f.Action), "status", number(f.Status))
}

func showHeaders(h *Headers) *yaml.Node {
	if h == nil {
		return nil
	}
	return object("request", showChanges(&h.Request), "response", showChanges(&h.Response))
}

func showChanges(c *HeaderChanges) *yaml.Node {
	set := object()
	for _, f := range c.Set {
		set.Content = append(set.Content, text(f.Name), text(f.Value))
	}
	add := object()
	for i := 0; i < len(c.Add); {
		// The values of one name stand together.
		name, values := c.Add[i].Name, []string{}
		for ; i < len(c.Add) && c.Add[i].Name == name; i++ {
			values = append(values, c.Add[i].Value)
		}
		add.Content = append(add.Content, text(name), texts(values))
	}
	return object("set", style(set), "add", style(add), "remove", texts(c.Remove))
}

func showRuleCache(c *RuleCache) *yaml.Node {
	if c == nil {
		return nil
	}
	return object("methods", texts(c.Methods), "statuses", numbers(c.Statuses), "content_types", texts(c.ContentTypes),
		"ttl", period(c.TTL), "force", truth(c.Force), "max_body", text(c.MaxBody.String()))
}

func showRetry(r *Retry) *yaml.Node {
	if r == nil {
		return nil
	}
	return object("attempts", number(r.Attempts), "on", texts(r.On), "backoff", period(r.Backoff))
}

func showBodyLog(l *BodyLog) *yaml.Node {
	if l == nil {
		return nil
	}
	redact := make([]string, len(l.Redact))
	for i, r := range l.Redact {
		redact[i] = r.String()
	}
	return object("request_body", truth(l.RequestBody), "response_body", truth(l.ResponseBody),
		"max_body", text(l.MaxBody.String()), "redact", texts(redact))
}

func numbers(values []int) *yaml.Node {
	items := make([]*yaml.Node, len(values))
	for i, v := range values {
		items[i] = number(v)
	}
	return flow(items)
}

func showRedis(r *Redis) *yaml.Node {
	return object("address", text(r.Address), "username", text(r.Username), "password_file", text(r.PasswordFile),
		"tls", truth(r.TLS), "ca_file", text(r.CAFile), "db", number(r.DB), "prefix", text(r.Prefix), "timeout", period(r.Timeout))
}

func showUpstreams(all []Upstream) *yaml.Node {
	out := object()
	for i := range all {
		u := &all[i]
		var hashOn, checks *yaml.Node
		if u.Algorithm == ConsistentHash {
			hashOn = text(u.HashOn.String())
		}
		if active, passive := showActive(&u.Active), showPassive(&u.Passive); active != nil || passive != nil {
			checks = object("active", active, "passive", passive)
		}
		out.Content = append(out.Content, text(u.Name), object(
			"algorithm", text(u.Algorithm), "hash_on", hashOn,
			"targets", showAll(u.Targets, func(t *Target) *yaml.Node {
				return object("target", text(joinHostPort(t.Host, t.Port)), "weight", number(t.Weight))
			}),
			"preserve_host", truth(u.PreserveHost), "slow_start", period(u.SlowStart), "healthchecks", checks))
	}
	return style(out)
}

func showActive(c *ActiveCheck) *yaml.Node {
	if c.HTTPPath == "" {
		return nil
	}
	return object("type", optional(c.Type), "http_path", text(c.HTTPPath), "timeout", period(c.Timeout), "statuses", numbers(c.Statuses),
		"healthy", object("interval", period(c.Healthy.Interval), "successes", number(c.Healthy.Successes)),
		"unhealthy", object("interval", period(c.Unhealthy.Interval), "http_failures", number(c.Unhealthy.HTTPFailures),
			"tcp_failures", number(c.Unhealthy.TCPFailures), "timeouts", number(c.Unhealthy.Timeouts)))
}

func showPassive(c *PassiveCheck) *yaml.Node {
	if c.Statuses == nil {
		return nil
	}
	return object("statuses", numbers(c.Statuses),
		"unhealthy", object("http_failures", number(c.Unhealthy.HTTPFailures),
			"tcp_failures", number(c.Unhealthy.TCPFailures), "timeouts", number(c.Unhealthy.Timeouts)),
		"recover_after", period(c.RecoverAfter))
}
