package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
)

// The origins' addresses and names.
const (
	originAddress    = "203.0.113.10" // nginx, HTTP/1.1
	originH2Address  = "203.0.113.11" // nginx, HTTP/2
	originOwnAddress = "203.0.113.12" // ours: names without end, events, names' addresses

	inspectName = "inspect.example.com"
	tunnelName  = "tunnel.example.com"
	// What a rule with controls lets by.
	controlledName = "controlled.example.com"
	// What a rule with a cache lets by.
	cachedName  = "cached.example.com"
	h2Name      = "h2.example.com"
	eventsName  = "events.example.com"
	firstSuffix = ".first.example.com" // every name below it is a new one
)

// bundlePath is the certificates that every system trusts.
const bundlePath = "/etc/ssl/certs/ca-certificates.crt"

// furnish writes the files that a host has, the authorities and the leaves of
// the origins and of the peers: leaf.pem, key.pem, both in one, and ca.pem with
// the authority's key, in a folder for each.
func (m *machine) furnish() error {
	bundle, err := os.ReadFile(m.path(bundlePath))
	if err != nil {
		return err
	}
	for folder, issuer := range map[string]string{"origin": originIssuer, "nginx": nginxIssuer, "haproxy": haproxyIssuer, "sslsplit": sslsplitIssuer} {
		a, err := newAuthority(issuer)
		if err != nil {
			return err
		}
		certificate, withKey, err := a.pem()
		if err != nil {
			return err
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		der, err := a.issue(key, inspectName, tunnelName, h2Name, controlledName, cachedName)
		if err != nil {
			return err
		}
		keyText, err := keyPEM(key)
		if err != nil {
			return err
		}
		leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		for name, content := range map[string][]byte{"ca.pem": withKey, "root.pem": certificate, "leaf.pem": leaf, "key.pem": keyText, "both.pem": append(leaf, keyText...)} {
			if err := m.write("/srv/"+folder+"/"+name, content); err != nil {
				return err
			}
		}
		bundle = append(bundle, certificate...)
	}
	for p, content := range map[string]string{
		bundlePath:         string(bundle),
		"/etc/hosts":       fmt.Sprintf("127.0.0.1 localhost\n%s %s %s %s %s\n%s %s\n%s %s\n", originAddress, inspectName, tunnelName, controlledName, cachedName, originH2Address, h2Name, originOwnAddress, eventsName),
		"/etc/resolv.conf": "nameserver " + originOwnAddress + "\n",
	} {
		if err := m.write(p, []byte(content)); err != nil {
			return err
		}
	}
	// OpenSSL's own default is the directory by hash.
	return output(m.enter(m.root, []string{"openssl", "rehash", "/etc/ssl/certs"}))
}
