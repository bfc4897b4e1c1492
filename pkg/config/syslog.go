package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// AuditSyslog is the sink "syslog".
type AuditSyslog struct {
	Address  SyslogAddress
	Facility SyslogFacility
}

// A SyslogAddress is where syslog messages go.
type SyslogAddress struct {
	// Network is "unix", "udp" or "tcp".
	Network string
	// Address is an absolute path or host:port.
	Address string
}

// LocalSyslog is the socket of the host's own syslog (syslog(3)).
const LocalSyslog = "/dev/log"

// The ports of syslog by UDP (RFC 5426 section 3.3) and by TCP (RFC 6587, which
// names none; 601 is IANA's syslog-conn, which rsyslog and syslog-ng offer).
const (
	syslogUDPPort = "514"
	syslogTCPPort = "601"
)

// ParseSyslogAddress reads "" (the host's own), /path, unix:///path,
// udp://host[:port] and tcp://host[:port].
func ParseSyslogAddress(s string) (SyslogAddress, error) {
	if s == "" {
		return SyslogAddress{Network: "unix", Address: LocalSyslog}, nil
	}
	if filepath.IsAbs(s) {
		return SyslogAddress{Network: "unix", Address: filepath.Clean(s)}, nil
	}
	const want = "want /path, unix:///path, udp://host:port or tcp://host:port"
	u, err := url.Parse(s)
	if err != nil {
		return SyslogAddress{}, fmt.Errorf("%q: %s", s, want)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return SyslogAddress{}, fmt.Errorf("%q: %s", s, want)
	}
	port := syslogUDPPort
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return SyslogAddress{}, fmt.Errorf("%q: %s", s, want)
		}
		return SyslogAddress{Network: "unix", Address: filepath.Clean(u.Path)}, nil
	case "tcp":
		port = syslogTCPPort
	case "udp":
	default:
		return SyslogAddress{}, fmt.Errorf("%q: %s", s, want)
	}
	if u.Hostname() == "" || u.Path != "" && u.Path != "/" || strings.ContainsAny(u.Hostname(), " \t/") {
		return SyslogAddress{}, fmt.Errorf("%q: %s", s, want)
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return SyslogAddress{}, fmt.Errorf("%q: port %s: want 1 to 65535", s, p)
		}
		port = p
	}
	return SyslogAddress{Network: u.Scheme, Address: net.JoinHostPort(u.Hostname(), port)}, nil
}

// String writes the address so that the configuration reads it back.
func (a SyslogAddress) String() string {
	switch {
	case a == SyslogAddress{}, a == SyslogAddress{Network: "unix", Address: LocalSyslog}:
		return ""
	case a.Network == "unix":
		return a.Address
	default:
		return a.Network + "://" + a.Address
	}
}

// A SyslogFacility is the name of a facility (RFC 5424 table 1, by the names of
// syslog.conf(5)).
type SyslogFacility string

// DefaultSyslogFacility is for messages of security that not everybody may read.
const DefaultSyslogFacility SyslogFacility = "authpriv"

// syslogFacilities are in the order of their numbers.
var syslogFacilities = [...]SyslogFacility{
	"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
	"", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
}

// SyslogFacilities lists the names.
func SyslogFacilities() []SyslogFacility {
	var all []SyslogFacility
	for _, f := range syslogFacilities {
		// Of the kernel's nobody else may speak.
		if f != "" && f != "kern" {
			all = append(all, f)
		}
	}
	return all
}

// Code gives the facility's number; it panics for a value outside the set.
func (f SyslogFacility) Code() int {
	for i, name := range syslogFacilities {
		if name == f && f != "" {
			return i
		}
	}
	panic("no syslog facility: " + string(f))
}
