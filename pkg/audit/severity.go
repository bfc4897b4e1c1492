package audit

// Severity gives the severity of an event in syslog and the journal (RFC 5424
// table 2): 4, a warning, for what was refused and for clients that reject our
// certificate; 5, a notice, for what would be refused, changes and the life of
// the service; 6, informational, for the rest.
func Severity(h *Head) int {
	switch string(h.Verdict) {
	case "deny":
		return 4
	case "would_deny":
		return 5
	}
	switch string(h.Kind) {
	case "refused", "foreign_socket", "tls_rejected":
		return 4
	case "admin", "lifecycle":
		return 5
	default:
		return 6
	}
}
