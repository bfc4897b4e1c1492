package nginx

import (
	"slices"
	"strings"

	"sallyport/pkg/convert"
)

// verified notes what of nginx's TLS with the origin is different here.
func (b *build) verified(sent string) {
	c, l := b.c, b.l
	if !b.secure {
		return
	}
	if d := l.last("proxy_ssl_verify"); d == nil || d.arg(0) != "on" {
		at := b.pass.Place
		if d != nil {
			at = d.Place
		}
		if d == nil && c.unverified {
			at = convert.Place{}
		}
		c.unverified = c.unverified || d == nil
		if at.Line > 0 {
			c.changed(at, "proxy_ssl_verify: nginx did not verify the origin's certificate; here it always is: name your own authority's file in tls.upstream_ca_files")
		}
	}
	if d := l.last("proxy_ssl_trusted_certificate"); d != nil && !slices.Contains(systemBundles, d.arg(0)) {
		c.changed(d.Place, "proxy_ssl_trusted_certificate: carried as tls.upstream_ca_files, which is trusted besides the system's authorities and for every rule")
		if !slices.Contains(c.draft.UpstreamCAFiles, d.arg(0)) {
			c.draft.UpstreamCAFiles = append(c.draft.UpstreamCAFiles, d.arg(0))
		}
	}
	if d := l.last("proxy_ssl_name"); d != nil && !slices.Contains(b.rule.Match.Hosts, d.arg(0)) && d.arg(0) != "$proxy_host" {
		c.lost(d.Place, "proxy_ssl_name %s: not carried: each origin is verified under its own name; name that host in proxy_pass or in the targets if it is the true one", d.arg(0))
	}
	if cert, key := l.value("proxy_ssl_certificate", ""), l.value("proxy_ssl_certificate_key", ""); cert != "" && key != "" {
		if strings.Contains(cert+key, "$") || strings.Contains(key, ":") {
			c.lost(l.last("proxy_ssl_certificate").Place, "proxy_ssl_certificate: not carried: name files in upstream_tls: { cert: FILE, key: FILE }")
		} else {
			b.rule.Cert, b.rule.Key = cert, key
		}
	}
	if d := l.last("proxy_ssl_protocols"); d != nil {
		old := slices.ContainsFunc(d.args, func(s string) bool { return s == "TLSv1" || s == "TLSv1.1" || strings.HasPrefix(s, "SSL") })
		switch {
		case len(d.args) == 1 && d.arg(0) == "TLSv1.3":
			c.draft.MinTLS = "1.3"
			c.changed(d.Place, "proxy_ssl_protocols: carried as tls.min_version, for every rule")
		case old:
			c.changed(d.Place, "proxy_ssl_protocols: TLS 1.2 is the least that is spoken")
		}
	}
}

// systemBundles are the files of the system's authorities, which are trusted
// anyway.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/ca-bundle.pem", "/etc/pki/tls/cert.pem", "/etc/ssl/cert.pem",
}
