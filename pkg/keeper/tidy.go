package keeper

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// tidyInterval is how often what workloads held that have ended is freed: places in
// the kernel, and trust directories.
const tidyInterval = time.Minute

// tidy frees what ended workloads left, until ctx ends.
func (k *Keeper) tidy(ctx context.Context) error {
	for range every(ctx, tidyInterval, nil) {
		// What stays occupied shows in the resources; the next minute tries again.
		if err := k.gate.data.Sweep(); err != nil {
			k.log.Warn("free places of ended workloads", zap.Error(err))
		}
		k.dropUnitTrust(time.Now().Add(-tidyInterval))
	}
	return nil
}
