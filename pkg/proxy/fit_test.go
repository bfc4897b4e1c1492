package proxy

import (
	"context"
	"io"
	"net"
	"testing"

	"sallyport/pkg/audit"
	"sallyport/pkg/ca"
	"sallyport/pkg/origin"
	"sallyport/pkg/resolver"
	"sallyport/pkg/workload"
)

// The real things fit the seams.
var (
	_ Origin   = (*origin.Reader)(nil)
	_ Resolver = (*resolver.Resolver)(nil)
	_ Leaves   = (*ca.Leaves)(nil)
	_ Audit    = (*audit.Log)(nil)
)

func TestPort53GoesToTheResolver(t *testing.T) {
	g := newGate(t, tcpRules, func(o *Options) {
		o.DNS = func(_ context.Context, conn *net.TCPConn, flow *origin.Flow, id *workload.Identity) {
			defer conn.Close()
			io.WriteString(conn, id.Name+" "+flow.Dst.String())
		}
	})
	if b, err := io.ReadAll(g.dial(1, "192.0.2.53:53")); string(b) != "w1 192.0.2.53:53" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	g = newGate(t, tcpRules, nil)
	if _, err := g.dial(1, "192.0.2.53:53").Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("without a resolver: %v", err)
	}
	if e := g.event(audit.Refused, 1); e.Reason != "protocol_denied" {
		t.Errorf("%+v", e)
	}
}
