package exchange

// A NameID is a field name that the codecs or the pipeline treat specially. It
// is found once, when a field enters a Header, so that no later step compares
// names again. The zero value is every other name.
type NameID uint8

// The names that have a meaning for framing, routing or a single hop.
const (
	OtherName NameID = iota
	AltSvc
	Authorization
	CacheControl
	Connection
	ContentEncoding
	ContentLength
	ContentRange
	ContentType
	Cookie
	Date
	Expect
	Host
	HTTP2Settings
	KeepAlive
	Location
	MaxForwards
	ProxyAuthenticate
	ProxyAuthenticationInfo
	ProxyAuthorization
	ProxyConnection
	Range
	RetryAfter
	SetCookie
	TE
	Trailer
	TransferEncoding
	Upgrade
	UserAgent
	Accept
)

// nameStrings gives each known name in the form that RFC 9110 and the registry
// print it.
var nameStrings = [...]string{
	AltSvc: "Alt-Svc", Authorization: "Authorization", CacheControl: "Cache-Control",
	Connection: "Connection", ContentEncoding: "Content-Encoding", ContentLength: "Content-Length",
	ContentRange: "Content-Range", ContentType: "Content-Type", Cookie: "Cookie", Date: "Date",
	Expect: "Expect", Host: "Host", HTTP2Settings: "HTTP2-Settings", KeepAlive: "Keep-Alive",
	Location: "Location", MaxForwards: "Max-Forwards", ProxyAuthenticate: "Proxy-Authenticate",
	ProxyAuthenticationInfo: "Proxy-Authentication-Info", ProxyAuthorization: "Proxy-Authorization",
	ProxyConnection: "Proxy-Connection", Range: "Range", RetryAfter: "Retry-After",
	SetCookie: "Set-Cookie", TE: "TE", Trailer: "Trailer", TransferEncoding: "Transfer-Encoding",
	Upgrade: "Upgrade", UserAgent: "User-Agent", Accept: "Accept",
}

// String gives the name as the registry prints it, "" for OtherName.
func (id NameID) String() string { return nameStrings[id] }

// LookupName finds the id of a field name without regard to case.
func LookupName(name string) NameID {
	switch len(name) {
	case 2:
		return either(name, TE)
	case 4:
		return either(name, Host, Date)
	case 5:
		return either(name, Range)
	case 6:
		return either(name, Accept, Cookie, Expect)
	case 7:
		return either(name, Upgrade, Trailer, AltSvc)
	case 8:
		return either(name, Location)
	case 10:
		return either(name, Connection, KeepAlive, UserAgent, SetCookie)
	case 11:
		return either(name, RetryAfter)
	case 12:
		return either(name, ContentType, MaxForwards)
	case 13:
		return either(name, Authorization, CacheControl, ContentRange)
	case 14:
		return either(name, ContentLength, HTTP2Settings)
	case 16:
		return either(name, ContentEncoding, ProxyConnection)
	case 17:
		return either(name, TransferEncoding)
	case 18:
		return either(name, ProxyAuthenticate)
	case 19:
		return either(name, ProxyAuthorization)
	case 25:
		return either(name, ProxyAuthenticationInfo)
	default:
		return OtherName
	}
}

func either(name string, ids ...NameID) NameID {
	for _, id := range ids {
		if EqualFold(name, nameStrings[id]) {
			return id
		}
	}
	return OtherName
}

// HopByHop reports whether the field belongs to one connection only and is
// never forwarded (RFC 9110 section 7.6.1). Framing fields are not among them:
// a codec writes them anew.
func (id NameID) HopByHop() bool {
	switch id {
	case Connection, HTTP2Settings, KeepAlive, ProxyAuthenticate, ProxyAuthenticationInfo,
		ProxyAuthorization, ProxyConnection, TE, Upgrade:
		return true
	default:
		return false
	}
}

// BannedFromTrailer reports whether the field frames, routes or authorises a
// message, so that no trailer section may have it (RFC 9110 section 6.5.1): a
// recipient that merges trailers into the header section would have another
// message than the one that was judged.
func (id NameID) BannedFromTrailer(request bool) bool {
	switch id {
	case ContentLength, TransferEncoding, Host, Trailer, Connection, Upgrade, TE,
		ContentEncoding, ContentType, ContentRange:
		return true
	case Authorization, Cookie, CacheControl, Expect, MaxForwards, ProxyAuthorization, Range:
		return request
	case SetCookie, Location, RetryAfter:
		return !request
	default:
		return false
	}
}

// Nominable reports whether a Connection field may declare this field to be
// hop-by-hop. RFC 9110 section 7.6.1 forbids it for fields meant for every
// recipient; obeying would let a sender have its neighbour strip the fields
// that frame, route or authorise the message.
func (id NameID) Nominable() bool {
	switch id {
	case AltSvc, OtherName:
		return true
	default:
		return id.HopByHop()
	}
}

// EqualFold compares two strings without regard to ASCII case. Unlike
// strings.EqualFold it never takes a non-ASCII letter (U+212A) for an ASCII one.
func EqualFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z' {
			return false
		}
	}
	return true
}
