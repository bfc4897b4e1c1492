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
	// maxRaw is the most that a hello can take on the wire, in bytes: each byte
	// in a record of its own.
	maxRaw = maxHello * (recordHeader + 1)
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
type HelloError struct {
	// Alert is the description of the TLS alert that fits (RFC 8446 section 6).
	Alert byte
	Text  string
}

func (e *HelloError) Error() string { return "ClientHello: " + e.Text }

func helloError(alert byte, text string) error { return &HelloError{alert, text} }

// The alerts for what is wrong with a hello (RFC 8446 section 6.2).
const (
	alertUnexpectedMessage = 10
	alertRecordOverflow    = 22
	alertIllegalParameter  = 47
	alertDecodeError       = 50
	alertProtocolVersion   = 70
	alertInternalError     = 80
	alertUnrecognizedName  = 112
)

// readHello takes a ClientHello from raw, which begins with a handshake
// record, and goes on with a. While it is not whole, need is the length that raw
// must have to get further.
func (a *assembly) readHello(raw []byte) (hello ClientHello, need int, err error) {
	message, need, err := a.next(raw)
	if err != nil || need > 0 {
		return ClientHello{}, need, err
	}
	hello, err = parseHello(message)
	return hello, 0, err
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
		return ClientHello{}, helloError(alertDecodeError, "truncated or with a length that does not fit")
	}
	if legacy>>8 != 3 {
		return ClientHello{}, helloError(alertProtocolVersion, "of an unknown version")
	}
	hello.Versions = []uint16{legacy}
	if s.Empty() {
		return hello, nil
	}
	if !s.ReadUint16LengthPrefixed(&extensions) || !s.Empty() {
		return ClientHello{}, helloError(alertDecodeError, "extensions with a length that does not fit")
	}
	var seen [maxExtensions]uint16
	for n := 0; !extensions.Empty(); n++ {
		var id uint16
		var data cryptobyte.String
		if !extensions.ReadUint16(&id) || !extensions.ReadUint16LengthPrefixed(&data) {
			return ClientHello{}, helloError(alertDecodeError, "extension with a length that does not fit")
		}
		switch {
		case n == maxExtensions:
			return ClientHello{}, helloError(alertIllegalParameter, "too many extensions")
		case slices.Contains(seen[:n], id):
			return ClientHello{}, helloError(alertIllegalParameter, "extension that comes twice")
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
			return helloError(alertDecodeError, "supported_versions with a length that does not fit")
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
			return helloError(alertIllegalParameter, "encrypted_client_hello that is not an outer one")
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
		return helloError(alertDecodeError, "server_name with a length that does not fit")
	}
	switch {
	case !list.Empty():
		return helloError(alertIllegalParameter, "more than one server name")
	case kind != 0:
		return helloError(alertUnrecognizedName, "server name of an unknown type")
	case len(name) == 0:
		return helloError(alertDecodeError, "empty server name")
	}
	text := string(name)
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		h.ServerAddr = addr
		return nil
	}
	if len(name) > maxName || name[len(name)-1] == '.' || name[0] == '.' {
		return helloError(alertUnrecognizedName, "server name too long or with an empty label")
	}
	for i, c := range name {
		if !isNameByte(c) || c == '.' && name[i-1] == '.' {
			return helloError(alertUnrecognizedName, "server name with a character that no DNS name holds")
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
		return helloError(alertDecodeError, "ALPN with a length that does not fit")
	}
	for !list.Empty() {
		var protocol cryptobyte.String
		if !list.ReadUint8LengthPrefixed(&protocol) || len(protocol) == 0 {
			return helloError(alertDecodeError, "ALPN with a length that does not fit")
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
