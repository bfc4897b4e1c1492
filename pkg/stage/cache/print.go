package cache

import (
	"encoding/json"
	"fmt"

	"sallyport/pkg/config"
)

// A Print stands for all of a rule that shapes what it stores: what an older
// text of the rule stored is not served by a newer one.
type Print struct{ digest digest }

// PrintOf gives the print of a rule of c.
func PrintOf(c *config.Config, r *config.Rule) Print {
	shape := struct {
		Stages   config.Stages
		TLS      *config.UpstreamTLS
		Proxy    *config.UpstreamProxy
		Default  config.UpstreamProxy
		Upstream *config.Upstream
		Roots    []string
	}{r.Stages, r.UpstreamTLS, r.UpstreamProxy, c.UpstreamProxy, nil, c.TLS.UpstreamCAFiles}
	// These look, count or wait and change nothing.
	shape.Stages.Log, shape.Stages.RateLimits, shape.Stages.Throttles, shape.Stages.Retry = nil, nil, nil, nil
	for i := range c.Upstreams {
		if c.Upstreams[i].Name == r.Upstream {
			shape.Upstream = &c.Upstreams[i]
		}
	}
	b, err := json.Marshal(&shape)
	if err != nil {
		// Plain data always has a form.
		panic(fmt.Sprintf("cache: rule %s: %v", r.Name, err))
	}
	return Print{digestOf(b)}
}
