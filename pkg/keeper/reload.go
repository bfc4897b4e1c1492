package keeper

import (
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"sallyport/pkg/config"
	"sallyport/pkg/keeper/protocol"
	"sallyport/pkg/policy"
)

// Reload reads the configuration again and puts it in force in both processes.
// On any error nothing changes, and the error, with file, line and column, is
// kept for status.
func (k *Keeper) Reload() error {
	k.reloading.Lock()
	defer k.reloading.Unlock()
	// A rotation does not wait for a configuration without mistakes.
	rotated := k.adoptRoot()
	err := errors.Join(rotated, k.reload())
	k.mu.Lock()
	k.configErr = err
	k.mu.Unlock()
	if err != nil {
		k.log.Error("reload: the configuration stays as it was", zap.Error(err))
		k.note("reload refused: " + err.Error())
	} else {
		k.note("configuration reloaded")
	}
	k.report()
	return err
}

func (k *Keeper) reload() error {
	c, sources, err := LoadConfig(k.options.ConfigPath, k.options.builtin())
	if err != nil {
		return err
	}
	p, err := policy.Compile(c)
	if err != nil {
		return err
	}
	k.mu.Lock()
	old := k.config
	k.mu.Unlock()
	if err := unchangeable(old, c); err != nil {
		return err
	}
	roots, err := readRoots(c)
	if err != nil {
		return err
	}
	certificates, err := readCertificates(c)
	if err != nil {
		return err
	}
	passwords, err := readPasswords(c)
	if err != nil {
		return err
	}
	next := protocol.Configuration{Generation: k.generation + 1, Builtin: k.options.builtin(), Roots: roots, Certificates: certificates, Passwords: passwords}
	for _, s := range sources {
		next.Sources = append(next.Sources, protocol.Source{Name: s.Name, Data: s.Data})
	}
	// The worker first: it refuses what it cannot use before anything changed.
	if err := k.tell(protocol.Configure, next); err != nil {
		return err
	}
	k.tellDraining(protocol.Configure, next)
	if err := k.registry.SetEntries(entries(c)); err != nil {
		return err
	}
	k.mu.Lock()
	k.config, k.policy, k.sources, k.generation = c, p, sources, next.Generation
	k.mu.Unlock()
	k.prodWatch()
	return nil
}

// unchangeable refuses a change of what is bound to names in the kernel, or is
// read once when a process starts: a change that does nothing until a restart
// would be taken for one that holds.
func unchangeable(old, next *config.Config) error {
	var errs []error
	refuse := func(changed bool, key string) {
		if changed {
			errs = append(errs, fmt.Errorf("%s cannot change while running: restart sallyport", key))
		}
	}
	refuse(old.StateDir != next.StateDir, "state_dir")
	refuse(old.RuntimeDir != next.RuntimeDir, "runtime_dir")
	refuse(old.BPFDir != next.BPFDir, "bpf_dir")
	refuse(old.NFTTable != next.NFTTable, "nft_table")
	refuse(old.Slice != next.Slice, "slice")
	refuse(old.Listen != next.Listen && old.Listen != config.Listen{}, "listen")
	refuse(old.Admin != next.Admin, "admin")
	refuse(old.Metrics != next.Metrics, "metrics")
	refuse(old.Log != next.Log, "log")
	refuse(old.Audit.File != next.Audit.File, "audit.file")
	refuse(!slices.Equal(old.Audit.Sinks, next.Audit.Sinks), "audit.sinks")
	refuse(old.Audit.Syslog != next.Audit.Syslog, "audit.syslog")
	refuse(old.Audit.OnFailure != next.Audit.OnFailure, "audit.on_failure")
	refuse(old.TLS.CADir != next.TLS.CADir, "tls.ca_dir")
	return errors.Join(errs...)
}
