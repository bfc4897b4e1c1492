package proxy

import (
	"crypto/tls"
	"net"
)

// overheard follows the records that a client sends during the handshake, for
// the alert that it may send in clear. A client of TLS 1.3 that does not accept
// our certificate has not sent anything encrypted yet, and OpenSSL changes its
// keys only when it would: its alert comes as a record of type 21, which to a
// server that reads with the new keys is a bad record. Encrypted records have
// type 23 (RFC 8446 section 5.2), so the two cannot be taken for each other.
type overheard struct {
	head [5]byte
	// have counts the bytes of head that are here, left those of the record that
	// are yet to come.
	have, left int
	// alert is the description of a fatal alert, 0 for none.
	alert byte
}

const (
	recordAlert = 21
	alertLength = 2
	alertFatal  = 2
)

// see takes what was read.
func (o *overheard) see(p []byte) {
	for len(p) > 0 {
		if o.left == 0 {
			n := copy(o.head[o.have:], p)
			o.have += n
			p = p[n:]
			if o.have < len(o.head) {
				return
			}
			o.have, o.left = 0, int(o.head[3])<<8|int(o.head[4])
			continue
		}
		n := min(o.left, len(p))
		if o.head[0] == recordAlert && o.head[3] == 0 && o.head[4] == alertLength {
			for _, b := range p[:n] {
				switch {
				case o.left == alertLength && b != alertFatal:
					// A warning; close_notify is one.
					o.head[0] = 0
				case o.left == 1 && o.head[0] == recordAlert:
					o.alert = b
				}
				o.left--
			}
		} else {
			o.left -= n
		}
		p = p[n:]
	}
}

// explain gives the error of the alert that was overheard in place of what the
// handshake has made of it.
func (o *overheard) explain(err error) error {
	if err == nil || o.alert == 0 {
		return err
	}
	return &net.OpError{Op: "remote error", Err: tls.AlertError(o.alert)}
}
