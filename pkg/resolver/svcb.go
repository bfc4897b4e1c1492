package resolver

import (
	"encoding/binary"

	"golang.org/x/net/dns/dnsmessage"
)

// stripService takes out of an SVCB or HTTPS record what would let a client
// pass by: ECH, under which we do not see the name; HTTP/3, which is UDP; and
// address hints, which are no answers that the proxy knows of. It reports
// whether the record is still good for anything, RFC 9460 §8: one that demands
// what was taken out is not.
func stripService(r *dnsmessage.SVCBResource) (changed, keep bool) {
	if r.Priority == 0 { // AliasMode has no parameters, RFC 9460 §2.4.2
		changed = len(r.Params) > 0
		r.Params = nil
		return changed, true
	}
	mandatory, _ := r.GetParam(dnsmessage.SVCParamMandatory)
	if len(mandatory)%2 != 0 {
		return true, false
	}
	var stillMandatory []byte
	for i := 0; i < len(mandatory); i += 2 {
		switch key := dnsmessage.SVCParamKey(binary.BigEndian.Uint16(mandatory[i:])); key {
		case dnsmessage.SVCParamECH:
			return true, false
		case dnsmessage.SVCParamIPv4Hint, dnsmessage.SVCParamIPv6Hint:
			changed = true
		default:
			stillMandatory = append(stillMandatory, mandatory[i:i+2]...)
		}
	}
	switch {
	case len(stillMandatory) == 0:
		r.DeleteParam(dnsmessage.SVCParamMandatory)
	case changed:
		r.SetParam(dnsmessage.SVCParamMandatory, stillMandatory)
	}
	for _, key := range []dnsmessage.SVCParamKey{dnsmessage.SVCParamECH, dnsmessage.SVCParamIPv4Hint, dnsmessage.SVCParamIPv6Hint} {
		if r.DeleteParam(key) {
			changed = true
		}
	}
	alpn, ok := r.GetParam(dnsmessage.SVCParamALPN)
	if !ok {
		return changed, true
	}
	rest, wellFormed := withoutHTTP3(alpn)
	if !wellFormed {
		return true, false
	}
	if len(rest) == len(alpn) {
		return changed, true
	}
	if len(rest) > 0 {
		r.SetParam(dnsmessage.SVCParamALPN, rest)
		return true, true
	}
	// Only HTTP/3 was offered. Without no-default-alpn the scheme's default is
	// (HTTP/1.1, §7.1.2); with it, or where alpn was mandatory, nothing is left.
	if _, only := r.GetParam(dnsmessage.SVCParamNoDefaultALPN); only || contains16(stillMandatory, uint16(dnsmessage.SVCParamALPN)) {
		return true, false
	}
	r.DeleteParam(dnsmessage.SVCParamALPN)
	return true, true
}

// withoutHTTP3 drops h3 and its drafts (h3-29) from a list of protocol names,
// each with its length before it.
func withoutHTTP3(list []byte) (rest []byte, wellFormed bool) {
	for len(list) > 0 {
		n := 1 + int(list[0])
		if n == 1 || n > len(list) {
			return nil, false
		}
		if id := list[1:n]; len(id) < 2 || id[0] != 'h' || id[1] != '3' || len(id) > 2 && id[2] != '-' {
			rest = append(rest, list[:n]...)
		}
		list = list[n:]
	}
	return rest, true
}

func contains16(list []byte, v uint16) bool {
	for ; len(list) >= 2; list = list[2:] {
		if binary.BigEndian.Uint16(list) == v {
			return true
		}
	}
	return false
}
