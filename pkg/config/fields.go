package config

import "strings"

// OwnField reports whether a field belongs to sallyport alone, so that no rule
// may change or demand it: those that frame a message, that live on one
// connection only (RFC 9110 section 7.6.1), that would send the workload past
// the gate (Alt-Svc), and Host, which policy has judged and TLS verified.
func OwnField(name string) bool {
	switch strings.ToLower(name) {
	case "host", "content-length", "transfer-encoding", "content-encoding", "trailer", "te",
		"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authentication-info",
		"proxy-authorization", "upgrade", "http2-settings", "expect", "alt-svc":
		return true
	default:
		return false
	}
}
