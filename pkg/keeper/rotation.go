package keeper

import (
	"bytes"
	"fmt"
	"time"

	"go.uber.org/zap"

	"sallyport/pkg/ca"
)

// adoptRoot takes over the root that `ca rotate` made. Only once every trust
// directory holds it does anything come from it: a workload never meets a
// certificate that it has no root for. On an error the old one stays in use, and
// the next reload tries again.
func (k *Keeper) adoptRoot() error {
	if k.options.Standalone {
		return nil // it ends with its command
	}
	k.mu.Lock()
	dir := k.config.TLS.CADir
	k.mu.Unlock()
	root, err := ca.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	if bytes.Equal(root.PEM(), k.root.Load().PEM()) {
		return nil
	}
	if err := k.trust.SetRoot(root.PEM()); err != nil {
		return fmt.Errorf("certificate authority: trust directories: %w", err)
	}
	m, err := root.Issue(time.Now())
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	k.root.Store(root)
	k.note("certificate authority " + root.Fingerprint() + " is in use")
	return k.renew(m)
}

// currentRoot is the root for a renewal. An overlap that has ended meanwhile ends
// here.
func (k *Keeper) currentRoot() *ca.Root {
	k.reloading.Lock()
	defer k.reloading.Unlock()
	if err := k.adoptRoot(); err != nil {
		k.log.Error("certificate authority", zap.Error(err))
	}
	return k.root.Load()
}
