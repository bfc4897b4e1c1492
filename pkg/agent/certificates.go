package agent

import (
	"fmt"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/proxy"
	"sallyport/pkg/upstream"
)

// certificates are what upstreams are shown, by the block of the rule.
type certificates map[*config.UpstreamTLS]*upstream.ClientCertificate

// certificatesOf reads the certificates of a configuration from the files that
// came with it. Those that old has already stay what they are, so that the
// connections made with them stay good.
func certificatesOf(c *config.Config, sources *protocol.Configuration, old certificates) (certificates, error) {
	files := make(map[string][]byte, len(sources.Certificates))
	for _, s := range sources.Certificates {
		files[s.Name] = s.Data
	}
	known := make(map[string]*upstream.ClientCertificate)
	for _, cert := range old {
		known[cert.Fingerprint()] = cert
	}
	out := make(certificates)
	for _, u := range c.Certificates() {
		cert, err := upstream.ParseClientCertificate(upstream.PEMFile{Name: u.Cert, Data: files[u.Cert]}, upstream.PEMFile{Name: u.Key, Data: files[u.Key]})
		if err != nil {
			return nil, fmt.Errorf("%s: upstream_tls: %w", u.At, err)
		}
		if same := known[cert.Fingerprint()]; same != nil {
			cert = same
		}
		known[cert.Fingerprint()] = cert
		out[u] = cert
	}
	return out, nil
}

// proxySettings is what the proxy goes by.
func (s *settings) proxySettings(timeouts config.Timeouts) *proxy.Settings {
	return &proxy.Settings{
		Policy: s.policy, Pipelines: s.pipelines, Balance: s.balance, Timeouts: timeouts, Certificates: s.certificates, Proxies: s.proxies,
		TunnelPinned: s.config.TLS.OnPinned == config.PinnedTunnel,
	}
}
