package keeper

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"sallyport/pkg/guard"
	"sallyport/pkg/netns"
	"sallyport/pkg/workload"
)

// removeTables removes the tables of instances that ended without us from every
// network namespace of the host: a keeper that is killed leaves them where a
// namespace outlives its workload.
func removeTables(instances []Instance) error {
	mounts, err := workload.Mounts()
	if err != nil {
		return err
	}
	var paths []string
	for _, m := range mounts {
		if m.Type == "nsfs" && strings.HasPrefix(m.Root, "net:") {
			paths = append(paths, m.Point)
		}
	}
	return netns.Each(paths, func(ns *os.File) error {
		var errs []error
		for _, i := range instances {
			g, err := guard.New(guard.Options{Table: i.Table, Netns: ns})
			if err == nil {
				err = g.Delete()
				g.Close()
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("guard of %s in another network namespace: %w", i.Name, err))
			}
		}
		return errors.Join(errs...)
	})
}
