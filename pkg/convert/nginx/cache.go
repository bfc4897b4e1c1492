package nginx

import (
	"slices"
	"strconv"

	"sallyport/pkg/config"
)

// plainKeys are cache keys that tell requests apart as ours do.
var plainKeys = []string{
	"$scheme$proxy_host$request_uri", "$scheme$proxy_host$uri$is_args$args", "$scheme$host$request_uri", "$host$request_uri", "$scheme$request_method$host$request_uri",
	"$scheme://$host$request_uri", "$proxy_host$request_uri", "$request_uri", "$uri$is_args$args",
}

func (b *build) cache() {
	c, l := b.c, b.l
	d := l.last("proxy_cache")
	if d == nil || d.arg(0) == "off" {
		return
	}
	if key := l.last("proxy_cache_key"); key != nil && !slices.Contains(plainKeys, key.arg(0)) {
		c.lost(key.Place, "proxy_cache_key: not carried, and so the cache neither: answers are told apart by workload, URL and Vary; set `cache` by hand if that is enough")
		return
	}
	for _, name := range []string{"proxy_cache_bypass", "proxy_no_cache"} {
		if x := l.last(name); x != nil {
			c.lost(x.Place, "%s: not carried, and so the cache neither: what may be stored is for the origin to say (Cache-Control); set `cache` by hand if it does", name)
			return
		}
	}
	r := &config.RuleCache{Methods: []string{"GET", "HEAD"}}
	ttls := l.level("proxy_cache_valid")
	for i, x := range ttls {
		ttl, ok := parseTime(x.arg(len(x.args) - 1))
		if !ok || len(x.args) == 0 {
			continue
		}
		codes := x.args[:len(x.args)-1]
		if len(codes) == 0 {
			codes = []string{"200", "301", "302"}
		}
		for _, code := range codes {
			n, err := strconv.Atoi(code)
			switch {
			case code == "any":
				c.changed(x.Place, "proxy_cache_valid any: carried for 200, 301, 302, 404 and 410")
				for _, n := range []int{200, 301, 302, 404, 410} {
					r.Statuses = appendInt(r.Statuses, n)
				}
			case err != nil || n < 200 || n > 599 || n == 206 || n == 304:
				c.lost(x.Place, "proxy_cache_valid %s: such answers are never stored", code)
			default:
				r.Statuses = appendInt(r.Statuses, n)
			}
		}
		if i > 0 && ttl != r.TTL {
			c.changed(x.Place, "proxy_cache_valid: one ttl holds for all statuses, the shortest")
		}
		if i == 0 || ttl < r.TTL {
			r.TTL = min(ttl, config.MaxTimeout)
		}
	}
	if len(r.Statuses) == 0 {
		// Only what says how long it is fresh was stored.
		r.Statuses = []int{200, 301, 302}
	}
	if x := l.last("proxy_ignore_headers"); x != nil {
		r.Force = slices.Contains(x.args, "Cache-Control") && slices.Contains(x.args, "Expires")
		c.changed(x.Place, "proxy_ignore_headers: with Cache-Control and Expires it becomes force: true, but never what is no-store, private, sets cookies or was asked for with Authorization")
	}
	r.ContentTypes = []string{"text/plain", "text/html", "text/css", "application/json", "application/javascript", "application/xml"}
	c.changed(d.Place, "proxy_cache: kept in memory (cache.max_bytes) for each workload apart, for the content_types that are listed: nginx stored any; add those that you need")
	b.rule.Stages.Cache = r
}

func appendInt(all []int, n int) []int {
	if slices.Contains(all, n) {
		return all
	}
	return append(all, n)
}
