package sniff

import (
	"net/netip"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

const (
	recordHandshake = 22
	typeClientHello = 1

	// maxRecord is the most content of a plaintext record (RFC 8446 section
	// 5.1), in bytes.
	maxRecord = 1 << 14
	// maxHello bounds a ClientHello with its four bytes of header, in bytes.
	// Post-quantum key shares need 1 to 2 KiB.
	maxHello = 64 << 10
	// maxRecords bounds how many records a hello may be spread over; with
	// maxHello it bounds what is held.
	maxRecords = 1024
	// maxExtensions bounds the extensions of a hello; clients send up to 25.
	maxExtensions = 128
	// maxName is the longest DNS name, in bytes.
	maxName = 253

	extServerName        = 0
	extALPN              = 16
	extSupportedVersions = 43
	extECH               = 0xfe0d
)

// A ClientHello is what a TLS client says about where it wants to go.
type ClientHello struct {
	// ServerName is the SNI as sent, which consists of letters, digits, "-",
	// "_" and "."; "" without one, or where it is an address.
	ServerName string
	// ServerAddr is the SNI where the client sent an IP address, which RFC
	// 6066 forbids and sloppy clients do; else the zero Addr.
	ServerAddr netip.Addr
	// ALPN lists the protocols offered, in the client's order.
	ALPN []string
	// Versions lists the versions offered, in the client's order, such as
	// 0x0304; one entry for clients before TLS 1.3.
	Versions []uint16
	// ECH says that an encrypted ClientHello, or grease for one, is offered:
	// then ServerName may be a public name that fronts for another.
	ECH bool
}

// A HelloError says why a ClientHello is not accepted.
type HelloError struct{ Text string }

func (e *HelloError) Error() string { return "ClientHello: " + e.Text }

func helloError(text string) error { return &HelloError{Text: text} }

// readHello takes a ClientHello from raw, which begins with a handshake
// record. While it is not whole, need is the length that raw must have to get
// further.
func readHello(raw []byte) (hello ClientHello, need int, err error) {
	message, need, err := reassemble(raw)
	if err != nil || need > 0 {
		return ClientHello{}, need, err
	}
	hello, err = parseHello(message)
	return hello, 0, err
}

// reassemble takes the first handshake message from its records. A message
// within one record is not copied.
func reassemble(raw []byte) (message []byte, need int, err error) {
	const recordHeader = 5
	rest := raw
	for records := 1; ; records++ {
		at := len(raw) - len(rest)
		if len(rest) < recordHeader {
			return nil, at + recordHeader, checkRecordStart(rest)
		}
		if err := checkRecordStart(rest); err != nil {
			return nil, 0, err
		}
		length := int(rest[3])<<8 | int(rest[4])
		switch {
		case length == 0:
			return nil, 0, helloError("empty handshake record")
		case length > maxRecord:
			return nil, 0, helloError("record over 16 KiB")
		case records > maxRecords:
			return nil, 0, helloError("too many records")
		}
		fragment := rest[recordHeader:min(len(rest), recordHeader+length)]
		if records == 1 {
			message = fragment[:len(fragment):len(fragment)]
		} else {
			message = append(message, fragment...)
		}
		total, known := messageLength(message)
		switch {
		case len(message) > 0 && message[0] != typeClientHello:
			return nil, 0, helloError("handshake that does not begin with a ClientHello")
		case known && total > maxHello:
			return nil, 0, helloError("over 64 KiB")
		case len(fragment) < length:
			// The whole record is wanted, though the message may end within
			// it: what follows in the record must be seen.
			return nil, at + recordHeader + length, nil
		case known && len(message) > total:
			return nil, 0, helloError("further handshake messages in its record")
		case known && len(message) == total:
			return message, 0, nil
		}
		rest = rest[recordHeader+length:]
	}
}

func checkRecordStart(p []byte) error {
	switch {
	case len(p) > 0 && p[0] != recordHandshake:
		return helloError("interrupted by a record of another type")
	case len(p) > 1 && p[1] != 3, len(p) > 2 && p[2] > 4:
		return helloError("record of an unknown version")
	default:
		return nil
	}
}

// messageLength gives the length of a handshake message with its header.
func messageLength(p []byte) (n int, known bool) {
	if len(p) < 4 {
		return 0, false
	}
	return 4 + int(p[1])<<16 + int(p[2])<<8 + int(p[3]), true
}

// parseHello reads RFC 8446 section 4.1.2 strictly: lengths must add up, and an
// extension that comes twice could be read either way.
func parseHello(message []byte) (ClientHello, error) {
	s := cryptobyte.String(message)
	var (
		hello                       ClientHello
		legacy                      uint16
		session, suites, extensions cryptobyte.String
		compressions                cryptobyte.String
	)
	if !s.Skip(4) || !s.ReadUint16(&legacy) || !s.Skip(32) ||
		!s.ReadUint8LengthPrefixed(&session) || len(session) > 32 ||
		!s.ReadUint16LengthPrefixed(&suites) || len(suites) < 2 || len(suites)%2 != 0 ||
		!s.ReadUint8LengthPrefixed(&compressions) || len(compressions) == 0 {
		return ClientHello{}, helloError("truncated or with a length that does not fit")
	}
	if legacy>>8 != 3 {
		return ClientHello{}, helloError("of an unknown version")
	}
	hello.Versions = []uint16{legacy}
	if s.Empty() {
		return hello, nil
	}
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return ClientHello{}, helloError("extensions with a length that does not fit")
	}
	var seen [maxExtensions]uint16
	for n := 0; !extensions.Empty(); n++ {
		var id uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&id) || !extensions.ReadUint16LengthPrefixed(&data) {
			return ClientHello{}, helloError("extension with a length that does not fit")
		}
		switch {
		case n == maxExtensions:
			return ClientHello{}, helloError("too many extensions")
		case slices.Contains(seen[:n], id):
			return ClientHello{}, helloError("extension that comes twice")
		}
		seen[n] = id
		if err := hello.extension(id, data); err != nil {
			return ClientHello{}, err
		}
	}
	return hello, nil
}

func (h *ClientHello) extension(id uint16, data cryptobyte.String) error {
	switch id {
	case extServerName:
		return h.serverName(data)
	case extALPN:
		return h.alpn(data)
	case extSupportedVersions:
		var list cryptobyte.String
		if !data.ReadUint8LengthPrefixed(&list) || !data.Empty() || len(list) < 2 || len(list)%2 != 0 {
			return helloError("supported_versions with a length that does not fit")
		}
		h.Versions = make([]uint16, len(list)/2)
		for i := range h.Versions {
			list.ReadUint16(&h.Versions[i])
		}
	case extECH:
		// draft-ietf-tls-esni: type outer is 0. An inner hello never travels
		// in clear.
		var kind uint8
		if !data.ReadUint8(&kind) || kind != 0 {
			return helloError("encrypted_client_hello that is not an outer one")
		}
		h.ECH = true
	}
	return nil
}

// serverName reads RFC 6066 section 3. More than one name, other types of
// names and what cannot be a DNS name are refused: the name decides where the
// connection may go. So is a trailing dot, which the RFC excludes and which
// would make two texts of one name.
func (h *ClientHello) serverName(data cryptobyte.String) error {
	var list, name cryptobyte.String
	var kind uint8
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() ||
		!list.ReadUint8(&kind) || !list.ReadUint16LengthPrefixed(&name) {
		return helloError("server_name with a length that does not fit")
	}
	switch {
	case !list.Empty():
		return helloError("more than one server name")
	case kind != 0:
		return helloError("server name of an unknown type")
	case len(name) == 0:
		return helloError("empty server name")
	}
	text := string(name)
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		h.ServerAddr = addr
		return nil
	}
	if len(name) > maxName || name[len(name)-1] == '.' || name[0] == '.' {
		return helloError("server name too long or with an empty label")
	}
	for i, c := range name {
		if !isNameByte(c) || c == '.' && name[i-1] == '.' {
			return helloError("server name with a character that no DNS name holds")
		}
	}
	h.ServerName = text
	return nil
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '-' || c == '_' || c == '.'
}

// alpn reads RFC 7301 section 3.1.
func (h *ClientHello) alpn(data cryptobyte.String) error {
	var list cryptobyte.String
	if !data.ReadUint16LengthPrefixed(&list) || !data.Empty() || list.Empty() {
		return helloError("ALPN with a length that does not fit")
	}
	for !list.Empty() {
		var protocol cryptobyte.String
		if !list.ReadUint8LengthPrefixed(&protocol) || len(protocol) == 0 {
			return helloError("ALPN with a length that does not fit")
		}
		switch string(protocol) {
		case "h2":
			h.ALPN = append(h.ALPN, "h2")
		case "http/1.1":
			h.ALPN = append(h.ALPN, "http/1.1")
		default:
			h.ALPN = append(h.ALPN, string(protocol))
		}
	}
	return nil
}
