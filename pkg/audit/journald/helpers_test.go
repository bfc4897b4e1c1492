package journald

import (
	"context"
	"testing"
	"time"
)

func contextFor(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, cancel
}

func wait(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); {
		if time.Now().After(deadline) {
			t.Fatal("not within a minute")
		}
		time.Sleep(time.Millisecond)
	}
}
