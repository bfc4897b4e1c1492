package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"sallyport/pkg/ca"
	"sallyport/pkg/config"
)

func (e *env) caCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "ca",
		Short:   "The certificate authority that workloads trust",
		Example: "  sallyport ca show",
		Args:    usageArgs(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(e.caShowCommand(), e.caBundleCommand(), e.caRotateCommand(), e.caTrustCommand(), e.caUntrustCommand())
	return c
}

// rootCertificate reads the root's certificate; the key is never touched.
func rootCertificate(c *cobra.Command) (*config.Config, []byte, error) {
	conf, err := loadConfig(c, config.Enforce)
	if err != nil {
		return nil, nil, err
	}
	root, err := ca.ReadRootCertificate(conf.TLS.CADir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("ca: no authority in %s yet: the first run or exec makes it", conf.TLS.CADir)
	}
	return conf, root, err
}

// authority is what ca show tells.
type authority struct {
	Subject     string    `json:"subject"`
	Fingerprint string    `json:"sha256"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	File        string    `json:"file"`
}

func (e *env) caShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "show",
		Short:   "Print the root certificate's name, fingerprint and dates",
		Example: "  sallyport ca show --json",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			conf, root, err := rootCertificate(c)
			if err != nil {
				return err
			}
			block, _ := pem.Decode(root)
			if block == nil {
				return fmt.Errorf("ca: %s holds no certificate", conf.TLS.CADir)
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return fmt.Errorf("ca: %w", err)
			}
			a := authority{
				Subject: cert.Subject.String(), Fingerprint: fmt.Sprintf("%x", sha256.Sum256(cert.Raw)),
				NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, File: filepath.Join(conf.TLS.CADir, ca.RootFile),
			}
			if asJSON {
				return json.NewEncoder(e.stdout).Encode(a)
			}
			_, err = fmt.Fprintf(e.stdout, "subject      %s\nsha256       %s\nvalid        %s to %s\ncertificate  %s\n",
				a.Subject, a.Fingerprint, a.NotBefore.Format(time.DateOnly), a.NotAfter.Format(time.DateOnly), a.File)
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (e *env) caBundleCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "bundle",
		Short:   "Print the bundle that workloads trust: the system's roots and ours",
		Example: "  sallyport ca bundle > bundle.pem",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			_, root, err := rootCertificate(c)
			if err != nil {
				return err
			}
			bundle, err := bundleOf(root)
			if err != nil {
				return fmt.Errorf("ca bundle: %w", err)
			}
			_, err = e.stdout.Write(bundle)
			return err
		},
	}
}

// bundleOf makes the bundle as a workload gets it, in a directory that is gone
// afterwards: the one in use may be readable by root alone.
func bundleOf(root []byte) ([]byte, error) {
	dir, err := os.MkdirTemp("", "sallyport-bundle-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	t, err := ca.NewTrust(ca.TrustOptions{Shared: filepath.Join(dir, "shared"), Workloads: filepath.Join(dir, "workloads"), Root: root})
	if err != nil {
		return nil, err
	}
	if err := t.Build(); err != nil {
		return nil, err
	}
	return os.ReadFile(t.Shared().Paths(nil).Bundle)
}
