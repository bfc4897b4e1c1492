package config

import (
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

// ruleCache reads what of a rule may be answered from memory.
func (d *decoder) ruleCache(n *node, path string) *RuleCache {
	c := &RuleCache{TTL: 300 * time.Second, MaxBody: 1e6}
	d.object(n, path,
		field{"methods", func(n *node) {
			d.few(n, path+".methods", MaxFew, func(n *node) {
				var method string
				if word(d, n, path+".methods", &method, http.MethodGet, http.MethodHead); method != "" && !slices.Contains(c.Methods, method) {
					c.Methods = append(c.Methods, method)
				}
			})
		}},
		field{"statuses", func(n *node) {
			d.few(n, path+".statuses", MaxFew, func(n *node) {
				v, ok := d.integer(n, path+".statuses", 200, 599)
				switch {
				case !ok:
				case v == http.StatusPartialContent || v == http.StatusNotModified:
					d.add(n.place, "%s%d is a part of an answer, and only whole ones are stored", prefix(path+".statuses"), v)
				case !slices.Contains(c.Statuses, int(v)):
					c.Statuses = append(c.Statuses, int(v))
				}
			})
		}},
		field{"content_types", func(n *node) {
			d.few(n, path+".content_types", MaxFew, func(n *node) {
				if t, ok := d.mediaType(n, path+".content_types"); ok && !slices.Contains(c.ContentTypes, t) {
					c.ContentTypes = append(c.ContentTypes, t)
				}
			})
		}},
		field{"ttl", func(n *node) {
			if v, ok := d.duration(n, path+".ttl", 0); ok {
				c.TTL = v
			}
		}},
		field{"force", func(n *node) { d.boolean(n, path+".force", &c.Force) }},
		field{"max_body", func(n *node) { d.size(n, path+".max_body", 1, MaxCache, &c.MaxBody) }},
	)
	if n.kind != mapping {
		return c
	}
	if n.get("methods") == nil {
		c.Methods = []string{http.MethodGet, http.MethodHead}
	}
	if n.get("statuses") == nil {
		c.Statuses = []int{http.StatusOK, http.StatusMovedPermanently, http.StatusFound}
	}
	if n.get("content_types") == nil {
		c.ContentTypes = []string{"text/plain", "application/json"}
	}
	return c
}

// mediaType reads type/subtype with parameters (RFC 9110 section 8.3.1).
func (d *decoder) mediaType(n *node, path string) (string, bool) {
	s, ok := d.text(n, path)
	if !ok {
		return "", false
	}
	kind, params, err := mime.ParseMediaType(s)
	if err != nil || !strings.Contains(kind, "/") || strings.Contains(kind, "*") {
		d.add(n.place, "%swant a media type such as text/plain, found %q", prefix(path), s)
		return "", false
	}
	return mime.FormatMediaType(kind, params), true
}

// cache reads the memory of all caches.
func (d *decoder) cache(n *node, c *Cache) {
	d.object(n, "cache", field{"max_bytes", func(n *node) { d.size(n, "cache.max_bytes", 0, MaxCache, &c.MaxBytes) }})
}
