package agent

import (
	"time"

	"sallyport/pkg/balance"
	"sallyport/pkg/config"
	"sallyport/pkg/exchange"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/policy"
	"sallyport/pkg/policy/pattern"
	"sallyport/pkg/upstream"
)

// settings is a configuration in force.
type settings struct {
	config *config.Config
	policy *policy.Policy
	hash   string
	// certificates are what upstreams are shown.
	certificates certificates
	proxies      proxies
	// pipelines are the stages of the rules.
	pipelines []*exchange.Pipeline
	// balance is what the rules do about targets and retries.
	balance balance.Rules
	// names match the workloads that have an entry.
	names []pattern.Glob
}

// parse reads a configuration as the keeper did.
func parse(c *protocol.Configuration, old certificates) (*settings, error) {
	conf := config.Default(c.Builtin)
	if len(c.Sources) > 0 {
		sources := make([]config.File, len(c.Sources))
		for i, s := range c.Sources {
			sources[i] = config.File{Name: s.Name, Data: s.Data}
		}
		var err error
		if conf, err = config.Parse(sources); err != nil {
			return nil, err
		}
	}
	p, err := policy.Compile(conf)
	if err != nil {
		return nil, err
	}
	s := &settings{config: conf, policy: p, hash: conf.Hash()}
	if s.certificates, err = certificatesOf(conf, c, old); err != nil {
		return nil, err
	}
	if s.proxies, err = proxiesOf(conf, c); err != nil {
		return nil, err
	}
	for i := range conf.Workloads {
		s.names = append(s.names, conf.Workloads[i].NameGlob())
	}
	return s, nil
}

// trustOf gives what upstream certificates are verified against.
func trustOf(c *config.Config, sources *protocol.Configuration) (upstream.Trust, error) {
	var extra []upstream.PEMFile
	for _, r := range sources.Roots {
		extra = append(extra, upstream.PEMFile{Name: r.Name, Data: r.Data})
	}
	roots, err := upstream.SystemRoots(extra...)
	return upstream.Trust{Roots: roots, MinVersion: c.TLS.MinVersion}, err
}

// configure puts a new configuration in force, or changes nothing.
func (w *worker) configure(c *protocol.Configuration) error {
	s, err := parse(c, w.config.Load().certificates)
	if err != nil {
		return err
	}
	trust, err := trustOf(s.config, c)
	if err != nil {
		return err
	}
	if err := w.compileStages(s, c); err != nil {
		return err
	}
	w.pool.SetTrust(trust)
	s.proxies.keep(w.config.Load().proxies)
	s.balance = w.balance.Apply(s.config)
	w.resolver.SetUpstreams(s.config.DNS.Upstreams, s.config.DNS.Original)
	w.resolver.SetReserved(s.policy.Proxied())
	w.proxy.Apply(s.proxySettings(s.config.Timeouts))
	w.config.Store(s)
	w.identities.forget()
	w.metrics.SetReload(true, time.Now())
	return nil
}
