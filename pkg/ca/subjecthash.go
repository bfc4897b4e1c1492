package ca

import (
	"bytes"
	"crypto/sha1"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// subjectHash gives the name under which OpenSSL finds a certificate in a
// directory (`openssl x509 -hash`, c_rehash): the first four octets of the
// SHA-1 of the canonical subject, little endian, in hex. rawSubject is the DER
// of the Name.
func subjectHash(rawSubject []byte) (string, error) {
	canon, err := canonicalName(rawSubject)
	if err != nil {
		return "", err
	}
	sum := sha1.Sum(canon)
	return fmt.Sprintf("%08x", binary.LittleEndian.Uint32(sum[:4])), nil
}

// canonicalName is x509_name_canon of OpenSSL's crypto/x509/x_name.c: the RDNs
// without the outer SEQUENCE, string values as UTF8String in lower case with
// spaces trimmed and collapsed, all other values as they are.
func canonicalName(raw []byte) ([]byte, error) {
	input := cryptobyte.String(raw)
	var name cryptobyte.String
	if !input.ReadASN1(&name, cbasn1.SEQUENCE) || !input.Empty() {
		return nil, errMalformedName
	}
	var out []byte
	for !name.Empty() {
		var set cryptobyte.String
		if !name.ReadASN1(&set, cbasn1.SET) {
			return nil, errMalformedName
		}
		var attributes [][]byte
		for !set.Empty() {
			attribute, err := canonicalAttribute(&set)
			if err != nil {
				return nil, err
			}
			attributes = append(attributes, attribute)
		}
		// DER sorts the members of a SET OF, X.690 §11.6.
		slices.SortFunc(attributes, bytes.Compare)
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
			for _, attribute := range attributes {
				b.AddBytes(attribute)
			}
		})
		der, err := b.Bytes()
		if err != nil {
			return nil, err
		}
		out = append(out, der...)
	}
	return out, nil
}

var errMalformedName = fmt.Errorf("malformed subject")

func canonicalAttribute(set *cryptobyte.String) ([]byte, error) {
	var attribute, oid, value cryptobyte.String
	var tag cbasn1.Tag
	if !set.ReadASN1(&attribute, cbasn1.SEQUENCE) ||
		!attribute.ReadASN1Element(&oid, cbasn1.OBJECT_IDENTIFIER) ||
		!attribute.ReadAnyASN1Element(&value, &tag) || !attribute.Empty() {
		return nil, errMalformedName
	}
	canon := []byte(value)
	if text, ok := stringValue(value, tag); ok {
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes(foldString(text)) })
		var err error
		if canon, err = b.Bytes(); err != nil {
			return nil, err
		}
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(oid)
		b.AddBytes(canon)
	})
	return b.Bytes()
}

// stringValue gives the UTF-8 of the string types in OpenSSL's ASN1_MASK_CANON.
func stringValue(element cryptobyte.String, tag cbasn1.Tag) ([]byte, bool) {
	var value cryptobyte.String
	if !element.ReadASN1(&value, tag) {
		return nil, false
	}
	switch tag {
	case cbasn1.UTF8String, cbasn1.PrintableString, cbasn1.IA5String, cbasn1.Tag(26): // 26: VisibleString
		return value, true
	case cbasn1.T61String: // OpenSSL reads it as Latin-1
		var out []byte
		for _, c := range value {
			out = utf8.AppendRune(out, rune(c))
		}
		return out, true
	case cbasn1.Tag(asn1.TagBMPString):
		if len(value)%2 != 0 {
			return nil, false
		}
		units := make([]uint16, len(value)/2)
		for i := range units {
			units[i] = binary.BigEndian.Uint16(value[2*i:])
		}
		return []byte(string(utf16.Decode(units))), true
	case cbasn1.Tag(28): // UniversalString
		if len(value)%4 != 0 {
			return nil, false
		}
		var out []byte
		for i := 0; i < len(value); i += 4 {
			out = utf8.AppendRune(out, rune(binary.BigEndian.Uint32(value[i:])))
		}
		return out, true
	default:
		return nil, false
	}
}

// foldString is asn1_string_canon: spaces trimmed and collapsed, ASCII in lower
// case, all else untouched.
func foldString(text []byte) []byte {
	text = bytes.Trim(text, "\t\n\v\f\r ")
	out := make([]byte, 0, len(text))
	space := false
	for _, c := range text {
		switch {
		case c == ' ' || '\t' <= c && c <= '\r':
			if !space {
				out = append(out, ' ')
			}
			space = true
			continue
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		space = false
		out = append(out, c)
	}
	return out
}

// firstElement gives the first DER element of data.
func firstElement(data []byte) ([]byte, bool) {
	input := cryptobyte.String(data)
	var element cryptobyte.String
	var tag cbasn1.Tag
	if !input.ReadAnyASN1Element(&element, &tag) {
		return nil, false
	}
	return element, true
}
