package audit

import (
	"fmt"
	"strings"
)

// A Kind says what an event is about. The set is closed.
type Kind uint8

// The kinds of events.
const (
	FlowOpen Kind = iota + 1
	FlowClose
	Exchange
	DNS
	Refused
	ForeignSocket
	TLSRejected
	Admin
	Lifecycle
	WebSocketOpen
	kindCount
)

var kindNames = [kindCount]string{
	FlowOpen:      "flow_open",
	FlowClose:     "flow_close",
	Exchange:      "exchange",
	DNS:           "dns",
	Refused:       "refused",
	ForeignSocket: "foreign_socket",
	TLSRejected:   "tls_rejected",
	Admin:         "admin",
	Lifecycle:     "lifecycle",
	WebSocketOpen: "websocket_open",
}

// String gives the kind's name in events and metrics; it panics for a value
// outside the set.
func (k Kind) String() string {
	if k == 0 || k >= kindCount {
		panic(fmt.Sprintf("audit: Kind(%d) is not in the closed set", uint8(k)))
	}
	return kindNames[k]
}

// Kinds lists all kinds.
func Kinds() []Kind {
	all := make([]Kind, 0, kindCount-1)
	for k := Kind(1); k < kindCount; k++ {
		all = append(all, k)
	}
	return all
}

// ParseKind is the reverse of String; the error lists the kinds.
func ParseKind(s string) (Kind, error) {
	for k := Kind(1); k < kindCount; k++ {
		if kindNames[k] == s {
			return k, nil
		}
	}
	return 0, fmt.Errorf("unknown kind %q; it is one of %s", s, strings.Join(kindNames[1:], ", "))
}
