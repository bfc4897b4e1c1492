package config

import "strconv"

// A NamedFile is a file that the configuration names, and which is read at start
// and at each reload.
type NamedFile struct {
	// Key is where the file is named, for errors.
	Key, Path string
	// Secret says what is secret in it, "" where nothing is.
	Secret string
}

// NamedFiles lists what the stages and the upstream proxies need of the disk,
// each file once, those with secrets first. Certificates and roots are not among
// them: they have their own lists.
func (c *Config) NamedFiles() []NamedFile {
	var all []NamedFile
	seen := make(map[string]bool)
	add := func(key, path, secret string) {
		if path != "" && !seen[path] {
			seen[path] = true
			all = append(all, NamedFile{key, path, secret})
		}
	}
	for _, u := range c.UpstreamProxies() {
		add("upstream_proxy.password_file", u.PasswordFile, "password")
	}
	for i := range c.Rules {
		if r := &c.Rules[i]; r.Auth != nil {
			add("rule "+strconv.Quote(r.Name)+": auth.secret_file", r.Auth.SecretFile, "secret")
		}
	}
	add("redis.password_file", c.Redis.PasswordFile, "password")
	add("redis.ca_file", c.Redis.CAFile, "")
	return all
}
