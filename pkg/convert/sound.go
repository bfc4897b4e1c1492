package convert

import (
	"bytes"
	"errors"

	"sallyport/pkg/config"
)

// Sound takes out of the draft what the configuration would refuse: a source may
// hold anything. What is taken out is noted at its file; a refusal takes the
// rules for the same origin behind it along, since without it they would be wider.
func (d *Draft) Sound(file string, notes *Notes) {
	if d.refused() == nil {
		return
	}
	at := Place{File: file}
	rules, upstreams := d.Rules, d.Upstreams
	d.Rules, d.Upstreams = nil, nil
	for _, part := range []struct {
		what string
		drop func()
	}{
		{"redis", func() { d.Redis = nil }},
		{"tls.upstream_ca_files", func() { d.UpstreamCAFiles = nil }},
	} {
		if err := d.refused(); err != nil {
			notes.Add(at, Lost, "%s: left out: %v", part.what, err)
			part.drop()
		}
	}
	known := make(map[string]bool)
	for _, u := range upstreams {
		d.Upstreams = append(d.Upstreams, u)
		if err := d.refused(); err != nil {
			notes.Add(at, Lost, "upstream %s: left out: %v", u.Name, err)
			d.Upstreams = d.Upstreams[:len(d.Upstreams)-1]
			continue
		}
		known[u.Name] = true
	}
	closed := make(map[string]bool)
	var kept []Rule
	for _, r := range rules {
		d.Rules = []Rule{r}
		err := d.refused()
		switch {
		case err == nil && !closed[r.Match.target()]:
			kept = append(kept, r)
			continue
		case err != nil:
			notes.Add(at, Lost, "rule %s: left out: %v", r.Name, err)
		default:
			notes.Add(at, Lost, "rule %s: left out: what must be refused before it cannot be written", r.Name)
		}
		if r.Deny {
			closed[r.Match.target()] = true
		}
	}
	d.Rules = kept
	if d.refused() != nil {
		// Each alone is sound and all together are not.
		notes.Add(at, Lost, "all rules: left out: %v", d.refused())
		d.Rules = nil
	}
}

// refused gives what the configuration has against the draft.
func (d *Draft) refused() error {
	var b bytes.Buffer
	if err := WriteYAML(&b, d); err != nil {
		return err
	}
	_, err := config.Parse([]config.File{{Name: "converted", Data: b.Bytes()}})
	if mistakes, ok := errors.AsType[config.Errors](err); ok && len(mistakes) > 0 {
		return mistakes[0]
	}
	return err
}
