package ca

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"software.sslmate.com/src/go-pkcs12"
)

// maxJavaEntries bounds what is read of a Java key store.
const maxJavaEntries = 4096

// javaStore writes certificates as the PKCS#12 trust store that a JVM takes for
// its cacerts. It has no password: a JVM opens its own cacerts without one, and
// up to Java 17 finds none of the certificates then that are encrypted. Every
// password opens it, `changeit` among them.
func javaStore(entries []javaEntry) ([]byte, error) {
	var out []pkcs12.TrustStoreEntry
	aliases := make(map[string]bool)
	seen := make(map[[sha256.Size]byte]bool)
	for _, entry := range entries {
		sum := sha256.Sum256(entry.der)
		if seen[sum] {
			continue
		}
		seen[sum] = true
		cert, err := x509.ParseCertificate(entry.der)
		if err != nil {
			// Some old roots have what Go refuses (a negative serial). A JVM
			// without that one root is better than one without any.
			continue
		}
		alias := entry.alias
		if alias == "" {
			alias = strings.ToLower(cert.Subject.CommonName)
		}
		// Equal aliases are one entry for a JVM.
		if alias == "" || aliases[alias] || !bmp(alias) {
			alias = strings.ToLower(hex.EncodeToString(sum[:8]))
		}
		aliases[alias] = true
		out = append(out, pkcs12.TrustStoreEntry{Cert: cert, FriendlyName: alias})
	}
	return pkcs12.Passwordless.EncodeTrustStoreEntries(out, "")
}

// bmp reports whether PKCS#12 can hold the text: its strings have no surrogates.
func bmp(s string) bool {
	for _, r := range s {
		if r > 0xffff || r == 0xfffd {
			return false
		}
	}
	return true
}

// A javaEntry is a trusted certificate and its alias, which may be empty.
type javaEntry struct {
	alias string
	der   []byte
}

var errNotJavaStore = errors.New("not a Java trust store")

// readJavaStore gives the trusted certificates of a host's cacerts, whichever
// of the three formats it has. Its integrity check is not verified: the file is
// the host's, and its password is known to everybody.
func readJavaStore(data []byte) ([]javaEntry, error) {
	if len(data) >= 4 {
		switch binary.BigEndian.Uint32(data) {
		case 0xfeedfeed, 0xcececece: // JKS, JCEKS
			return readJKS(data)
		}
	}
	if !bytes.HasPrefix(data, []byte{0x30}) {
		return nil, errNotJavaStore
	}
	certs, err := pkcs12.DecodeTrustStore(data, "")
	if err != nil {
		certs, err = pkcs12.DecodeTrustStore(data, "changeit")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotJavaStore, err)
	}
	var entries []javaEntry
	for _, cert := range certs {
		entries = append(entries, javaEntry{der: cert.Raw})
	}
	return entries, nil
}

// readJKS reads sun.security.provider.JavaKeyStore's format, version 1 or 2.
// Private keys are passed over; at a secret key, whose length only a JVM knows,
// reading ends.
func readJKS(data []byte) ([]javaEntry, error) {
	in := cryptobyte.String(data)
	var magic, version, count uint32
	if !in.ReadUint32(&magic) || !in.ReadUint32(&version) || !in.ReadUint32(&count) || version < 1 || version > 2 {
		return nil, errNotJavaStore
	}
	if count > maxJavaEntries {
		return nil, fmt.Errorf("%w: %d entries", errNotJavaStore, count)
	}
	var entries []javaEntry
	for range count {
		var tag uint32
		var alias, created []byte
		if !in.ReadUint32(&tag) || !read16(&in, &alias) || !in.ReadBytes(&created, 8) {
			return nil, errNotJavaStore
		}
		switch tag {
		case 1:
			var key []byte
			var chain uint32
			if !read32(&in, &key) || !in.ReadUint32(&chain) || chain > maxJavaEntries {
				return nil, errNotJavaStore
			}
			for range chain {
				if _, ok := jksCertificate(&in, version); !ok {
					return nil, errNotJavaStore
				}
			}
		case 2:
			der, ok := jksCertificate(&in, version)
			if !ok {
				return nil, errNotJavaStore
			}
			entries = append(entries, javaEntry{alias: strings.ToValidUTF8(string(alias), "?"), der: der})
		case 3:
			return entries, nil
		default:
			return nil, errNotJavaStore
		}
	}
	return entries, nil
}

func jksCertificate(in *cryptobyte.String, version uint32) ([]byte, bool) {
	var kind, der []byte
	if version == 2 && !read16(in, &kind) {
		return nil, false
	}
	ok := read32(in, &der)
	return der, ok
}

func read16(in *cryptobyte.String, out *[]byte) bool {
	var n uint16
	return in.ReadUint16(&n) && in.ReadBytes(out, int(n))
}

func read32(in *cryptobyte.String, out *[]byte) bool {
	var n uint32
	return in.ReadUint32(&n) && uint64(n) <= uint64(len(*in)) && in.ReadBytes(out, int(n))
}
