package keeper

import (
	"testing"

	"sallyport/pkg/config"
)

// TestWithoutConfiguration: a daemon whose file is lost refuses everything; only
// an exec of its own, which somebody started by hand, observes.
func TestWithoutConfiguration(t *testing.T) {
	for standalone, want := range map[bool]config.Mode{true: config.Observe, false: config.Enforce} {
		o := Options{Standalone: standalone}
		c, sources, err := LoadConfig("", o.builtin())
		if err != nil || len(sources) > 0 || c.Mode != want || c.Default != config.Deny {
			t.Errorf("standalone %v: mode %s, default %s, %v; want %s, deny", standalone, c.Mode, c.Default, err, want)
		}
	}
	if _, _, err := LoadConfig(t.TempDir()+"/none.yaml", config.Observe); err == nil {
		t.Error("a file that is named and missing is passed over")
	}
}
