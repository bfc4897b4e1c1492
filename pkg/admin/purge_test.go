package admin

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestPurge(t *testing.T) {
	r := start(t)
	c := r.client(t)
	for rule, want := range map[string]Purged{"": {0, 1000}, "read & write": {12, 1000}} {
		if got, err := c.PurgeCache(context.Background(), rule); err != nil || *got != want {
			t.Errorf("%q: %+v, %v", rule, got, err)
		}
	}
	if _, err := c.PurgeCache(context.Background(), "unknown"); !errors.Is(err, ErrBadRequest) || strings.Count(err.Error(), ErrBadRequest.Error()) != 1 {
		t.Errorf("an unknown rule: %v", err)
	}
	var told []string
	for _, e := range r.recorded() {
		told = append(told, e.Message)
	}
	if text := strings.Join(told, "\n"); len(told) != 2 || !strings.Contains(text, "cache purge of rule read & write: 12 responses, 1000 bytes") {
		t.Errorf("%q", told)
	}
}

// What changes something is for root alone.
func TestPurgeIsForRoot(t *testing.T) {
	r := start(t)
	if _, err := r.clientAs(t, 4001, testGroup).PurgeCache(context.Background(), ""); !errors.Is(err, ErrForbidden) {
		t.Error(err)
	}
	if e := r.recorded(); len(e) != 1 || e[0].Verdict != "deny" || !strings.Contains(e[0].Message, "/v1/cache/purge") {
		t.Errorf("%+v", e)
	}
}
