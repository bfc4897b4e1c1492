package config

import "testing"

func TestSyslogAddress(t *testing.T) {
	for text, want := range map[string]SyslogAddress{
		"":                         {"unix", "/dev/log"},
		"/run/x/../log":            {"unix", "/run/log"},
		"unix:///run/log":          {"unix", "/run/log"},
		"udp://logs.example.com":   {"udp", "logs.example.com:514"},
		"udp://[2001:db8::1]:1514": {"udp", "[2001:db8::1]:1514"},
		"tcp://192.0.2.1/":         {"tcp", "192.0.2.1:601"},
		"tcp://h:6514":             {"tcp", "h:6514"},
	} {
		got, err := ParseSyslogAddress(text)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		again, err := ParseSyslogAddress(got.String())
		if err != nil || again != got {
			t.Errorf("%q is written as %q", text, got.String())
		}
	}
	for _, text := range []string{
		"logs.example.com", "logs:514", "run/log", "unix://run/log", "unix:run", "udp://", "udp://:514", "udp://h:0", "udp://h:99999",
		"udp://h/x", "tls://h", "udp://u@h", "tcp://h?x", "udp://h h", "http://h",
	} {
		if got, err := ParseSyslogAddress(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestSyslogFacilities(t *testing.T) {
	all := SyslogFacilities()
	if len(all) != 19 || all[0] != "user" || DefaultSyslogFacility.Code() != 10 || SyslogFacility("local7").Code() != 23 {
		t.Error(all)
	}
}
