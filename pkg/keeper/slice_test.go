package keeper

import "testing"

func TestSlicePath(t *testing.T) {
	for _, tt := range []struct{ slice, systemd, plain string }{
		{"mcp.slice", "/mcp.slice", "/mcp.slice"},
		{"apps-mcp.slice", "/apps.slice/apps-mcp.slice", "/apps-mcp.slice"},
		{"a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice", "/a-b-c.slice"},
	} {
		if got := slicePath(tt.slice, true); got != tt.systemd {
			t.Errorf("with systemd: %s is %s, want %s", tt.slice, got, tt.systemd)
		}
		if got := slicePath(tt.slice, false); got != tt.plain {
			t.Errorf("without: %s is %s, want %s", tt.slice, got, tt.plain)
		}
	}
}
