package main

import (
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"sallyport/pkg/audit"
)

// filterNames are the flags that flows and tail share, with what each compares.
var filterNames = []struct{ name, usage string }{
	{"workload", "name, unit, container or cgroup; `glob`, repeatable"},
	{"verdict", "allow, deny or would_deny"},
	{"reason", "for example no_rule or udp_denied"},
	{"rule", "name of a rule; `glob`, repeatable"},
	{"host", "any name of the event, or its address; `glob`, repeatable"},
	{"kind", "flow_open, flow_close, exchange, dns, refused, foreign_socket, tls_rejected, websocket_open, admin or lifecycle"},
	{"since", "`time`: a duration before now (10m), a date, or RFC 3339"},
}

func addFilterFlags(c *cobra.Command) {
	for _, f := range filterNames {
		c.Flags().StringArray(f.name, nil, f.usage)
	}
}

// filterOf reads the flags.
func filterOf(c *cobra.Command) (*audit.Filter, error) {
	values := url.Values{}
	for _, f := range filterNames {
		given, err := c.Flags().GetStringArray(f.name)
		if err != nil {
			return nil, err
		}
		for _, v := range given {
			values.Add(f.name, v)
		}
	}
	filter, err := audit.ParseFilter(values, time.Now())
	if err != nil {
		return nil, wrongUse(c, err)
	}
	return &filter, nil
}
