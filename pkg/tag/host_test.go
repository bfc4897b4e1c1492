package tag

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"sallyport/pkg/systemd"
)

// loaded are the units that a test's systemd knows.
type loaded map[string]*systemd.Unit

func (l loaded) Unit(_ context.Context, name string) (*systemd.Unit, error) {
	if u := l[name]; u != nil {
		return u, nil
	}
	return nil, fmt.Errorf("unit %s: %w", name, systemd.ErrNoUnit)
}

// TestUnitOf: what cannot be tagged is refused with what is wrong, and what to do.
func TestUnitOf(t *testing.T) {
	known := loaded{
		"web.service":               {Name: "web.service"},
		"alias.service":             {Name: "sallyport.service"},
		"masked.service":            {Name: "masked.service", LoadState: "masked"},
		"login.service":             {Name: "login.service", PAMName: "login"},
		"shell@sallyport.service":   {Name: "shell@sallyport.service", PAMName: "system-login"},
		"shell@one.service":         {Name: "shell@one.service", PAMName: "system-login"},
		"connect@sallyport.service": {Name: "connect@sallyport.service"},
	}
	for name, wants := range map[string][]string{
		"web.service":      nil,
		"web":              nil,
		"connect@.service": nil,
		"later@.service":   nil, // a template that is not there yet
		"absent.service":   {"no such unit", "systemctl --user"},
		"alias.service":    {"sallyport.service is sallyport's own"},
		"masked.service":   {"masked.service is masked"},
		"login.service":    {"PAMName=login", "out of its slice", "systemctl edit login.service", "empty PAMName="},
		"shell@.service":   {"PAMName=system-login", "systemctl edit shell@.service"},
		"shell@one":        {"PAMName=system-login", "systemctl edit shell@one.service"},
	} {
		_, template, err := unitOf(t.Context(), known, name)
		if len(wants) == 0 && (err != nil || template != strings.Contains(name, "@.")) {
			t.Errorf("%s: template %v, %v", name, template, err)
		}
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q in it", name, err, want)
			}
		}
	}
	failed := errors.New("systemd does not answer")
	if _, _, err := unitOf(t.Context(), silent{failed}, "connect@.service"); !errors.Is(err, failed) {
		t.Errorf("a template of which systemd says nothing: %v", err)
	}
}

// silent is a systemd that fails.
type silent struct{ err error }

func (s silent) Unit(context.Context, string) (*systemd.Unit, error) { return nil, s.err }
