package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// maxFile bounds what is read of one certificate file, in bytes. The largest
// system bundles are below 1 MiB.
const maxFile = 8 << 20

// maxCertificates bounds how many certificates are taken from one file.
const maxCertificates = 4096

// pemCertificates gives the DER of each certificate in data, in order. OpenSSL's
// TRUSTED CERTIFICATE carries trust settings after the certificate; they are
// cut off. Other blocks (keys!) are passed over.
func pemCertificates(data []byte) [][]byte {
	var out [][]byte
	for len(out) < maxCertificates {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE", "X509 CERTIFICATE":
			out = append(out, block.Bytes)
		case "TRUSTED CERTIFICATE":
			if der, ok := firstElement(block.Bytes); ok {
				out = append(out, der)
			}
		}
	}
	return out
}

// parseAll parses each certificate of data; one that does not parse is an error.
func parseAll(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for _, der := range pemCertificates(data) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

func parseOne(data []byte) (*x509.Certificate, error) {
	certs, err := parseAll(data)
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 {
		return nil, fmt.Errorf("%d certificates where one is expected", len(certs))
	}
	return certs[0], nil
}

// joinPEM puts PEM texts one after another, each ending in a newline: a missing
// one would make BEGIN part of the line before.
func joinPEM(parts ...[]byte) []byte {
	var out bytes.Buffer
	for _, part := range parts {
		out.Write(part)
		if len(part) > 0 && part[len(part)-1] != '\n' {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}
