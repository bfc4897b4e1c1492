package config

import "go.yaml.in/yaml/v4"

// UpstreamTLS is the certificate that a rule's upstreams are shown when they ask
// for one (mutual TLS). The zero value means none.
type UpstreamTLS struct {
	// Cert and Key are absolute paths of PEM files, which the keeper reads at
	// start and at each reload: the certificate with its intermediates behind it,
	// and its private key, which others than its owner and group must not be able
	// to read. Both or neither.
	Cert, Key string
	// At is where the block stands, FILE:LINE:COL, for what is wrong with the
	// files.
	At string
}

// set reports whether there is a certificate.
func (u *UpstreamTLS) set() bool { return u != nil && u.Cert != "" }

// upstreamTLS reads a block. Two empty texts say that what `defaults` has does
// not hold.
func (d *decoder) upstreamTLS(n *node, path string) *UpstreamTLS {
	u := &UpstreamTLS{At: n.place.String()}
	read := func(key string, into *string) field {
		return field{key, func(n *node) {
			if n.kind != scalar || n.tag != "!!str" || n.value != "" {
				d.file(n, path+"."+key, into)
			}
		}}
	}
	d.object(n, path, read("cert", &u.Cert), read("key", &u.Key))
	if n.kind != mapping {
		return u
	}
	for _, key := range [...]string{"cert", "key"} {
		if n.get(key) == nil {
			d.add(n.place, "%swant cert and key, found no %s", prefix(path), key)
			return u
		}
	}
	empty := func(key string) bool { v := n.get(key).value; return v.kind == scalar && v.value == "" }
	if empty("cert") != empty("key") {
		d.add(n.place, "%scert and key belong together: give both, or \"\" for both", prefix(path))
	}
	return u
}

func showUpstreamTLS(u *UpstreamTLS) *yaml.Node {
	if u == nil {
		return nil
	}
	return object("cert", text(u.Cert), "key", text(u.Key))
}

// CertificateOf gives the certificate that a rule's upstreams are shown, nil for
// none.
func (c *Config) CertificateOf(r *Rule) *UpstreamTLS {
	if r == nil || !r.UpstreamTLS.set() || r.Action == Deny || r.Handling != Inspect {
		return nil
	}
	return r.UpstreamTLS
}

// Certificates lists the blocks of all rules, each once.
func (c *Config) Certificates() []*UpstreamTLS {
	var all []*UpstreamTLS
	seen := make(map[*UpstreamTLS]bool)
	for i := range c.Rules {
		if u := c.CertificateOf(&c.Rules[i]); u != nil && !seen[u] {
			seen[u] = true
			all = append(all, u)
		}
	}
	return all
}
