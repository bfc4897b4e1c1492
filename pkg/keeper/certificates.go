package keeper

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"sallyport/pkg/ca"
	"sallyport/pkg/keeper/protocol"
)

const (
	// rootNear is how long before its end the root is a problem: every workload
	// has to be started again with another one.
	rootNear = 90 * 24 * time.Hour
	// issuingNear is when an issuing certificate should have been renewed a day ago.
	issuingNear = 3 * 24 * time.Hour
)

// certificates gives the authority's certificates by their name in metrics.
func (k *Keeper) certificates() []protocol.Certificate {
	list := []protocol.Certificate{{Name: "root", NotAfter: k.root.Load().Certificate().NotAfter, NotBefore: k.root.Load().Certificate().NotBefore}}
	if m := k.issued.Load(); m != nil {
		if c, err := issuing(m); err == nil {
			list = append(list, protocol.Certificate{Name: "issuing", NotAfter: c.NotAfter, NotBefore: c.NotBefore})
		}
	}
	return list
}

// issuing reads the issuing certificate, the first of the chain.
func issuing(m *ca.Material) (*x509.Certificate, error) {
	block, _ := pem.Decode(m.Chain)
	if block == nil {
		return nil, errors.New("no certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// watchCertificates tells of certificates that are about to end.
func (k *Keeper) watchCertificates() {
	k.concern("certificates", nearEnd(k.certificates(), time.Now())...)
}

// nearEnd says which certificates need a person.
func nearEnd(list []protocol.Certificate, now time.Time) (problems []string) {
	for _, c := range list {
		left := c.NotAfter.Sub(now)
		days := int(left / (24 * time.Hour))
		remedy := "; sallyport ca rotate makes another one, after which every workload has to be started again"
		near := rootNear
		if c.Name != "root" {
			near, remedy = issuingNear, "; its renewal fails: the log says why, and restarting sallyport makes another one"
		}
		switch {
		case now.Before(c.NotBefore):
			problems = append(problems, fmt.Sprintf("the %s certificate is not valid before %s; set the host's clock", c.Name, c.NotBefore.UTC().Format(time.DateTime)))
		case left <= 0:
			problems = append(problems, fmt.Sprintf("the %s certificate ended on %s: workloads reject every connection%s", c.Name, c.NotAfter.UTC().Format(time.DateOnly), remedy))
		case left < near:
			problems = append(problems, fmt.Sprintf("the %s certificate ends in %d days%s", c.Name, days, remedy))
		}
	}
	return problems
}
