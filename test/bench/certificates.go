package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"time"
)

// furnish writes the files that a host has, and the certificate of both nginx.
func (m *machine) furnish() error {
	root, leaf, key, err := certificates(inspectName, tunnelName)
	if err != nil {
		return err
	}
	bundle, err := os.ReadFile(m.path("/etc/ssl/certs/ca-certificates.crt"))
	if err != nil {
		return err
	}
	for p, content := range map[string][]byte{
		"/etc/ssl/certs/ca-certificates.crt": append(bundle, root...),
		"/srv/tls/leaf.pem":                  leaf,
		"/srv/tls/key.pem":                   key,
		"/etc/hosts":                         []byte("127.0.0.1 localhost\n" + originAddress + " " + inspectName + " " + tunnelName + "\n"),
		"/etc/resolv.conf":                   []byte("nameserver " + originAddress + "\n"),
	} {
		if err := m.write(p, content); err != nil {
			return err
		}
	}
	return nil
}

// certificates makes an authority and a leaf for names, ECDSA P-256 as
// sallyport's own.
func certificates(names ...string) (root, leaf, key []byte, err error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Benchmark Authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, authority, authority, &rootKey.PublicKey, rootKey)
	if err != nil {
		return nil, nil, nil, err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, server, authority, &leafKey.PublicKey, rootKey)
	if err != nil {
		return nil, nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		return nil, nil, nil, err
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	return block("CERTIFICATE", rootDER), block("CERTIFICATE", leafDER), block("PRIVATE KEY", keyDER), nil
}
