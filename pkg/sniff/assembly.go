package sniff

// An assembly takes the first handshake message from its records as they come.
// It goes on where it stood, so that a hello in very many records costs no more
// than its bytes, however slowly they come. The zero value begins.
type assembly struct {
	// at is where in the bytes of the connection the next record begins.
	at int
	// end is where the first record ends, message what all of them hold together,
	// nil while there is one.
	end     int
	message []byte
}

const recordHeader = 5

// next goes on with raw, all bytes since the connection's first. While the
// message is not whole, need is the length that raw must have to get further. A
// message within one record is not copied.
func (a *assembly) next(raw []byte) (message []byte, need int, err error) {
	for {
		rest := raw[a.at:]
		if err := checkRecordStart(rest); err != nil {
			return nil, 0, err
		}
		if len(rest) < recordHeader {
			return nil, a.at + recordHeader, nil
		}
		length := int(rest[3])<<8 | int(rest[4])
		switch {
		case length == 0:
			// RFC 8446 section 5.1: never of a handshake type.
			return nil, 0, helloError(alertUnexpectedMessage, "empty handshake record")
		case length > maxRecord:
			return nil, 0, helloError(alertRecordOverflow, "record over 16 KiB")
		}
		fragment := rest[recordHeader:min(len(rest), recordHeader+length)]
		whole := len(fragment) == length
		switch {
		case a.at == 0:
			a.end = recordHeader + length
			message = fragment
		case !whole:
			message = a.message
		default:
			if a.message == nil {
				a.message = raw[recordHeader:a.end:a.end] // append copies
			}
			a.message = append(a.message, fragment...)
			message = a.message
		}
		if err := checkMessage(message); err != nil {
			return nil, 0, err
		}
		total, known := messageLength(message)
		have := len(message)
		if !whole {
			if a.at == 0 {
				have = 0
			}
			have += length
		}
		switch {
		case known && have > total:
			return nil, 0, helloError(alertUnexpectedMessage, "further handshake messages in its record")
		case !whole:
			return nil, a.at + recordHeader + length, nil
		case known && have == total:
			return message[:total:total], 0, nil
		}
		a.at += recordHeader + length
	}
}

// checkRecordStart judges as much of a record's header as is here.
func checkRecordStart(p []byte) error {
	switch {
	case len(p) > 0 && p[0] != recordHandshake:
		// RFC 8446 section 5.1: no other type between the records of a message.
		return helloError(alertUnexpectedMessage, "interrupted by a record of another type")
	case len(p) > 1 && p[1] != 3, len(p) > 2 && p[2] > 4:
		return helloError(alertProtocolVersion, "record of an unknown version")
	default:
		return nil
	}
}

// checkMessage judges as much of a message as is here.
func checkMessage(p []byte) error {
	if len(p) > 0 && p[0] != typeClientHello {
		return helloError(alertUnexpectedMessage, "handshake that does not begin with a ClientHello")
	}
	if total, known := messageLength(p); known && total > maxHello {
		return helloError(alertIllegalParameter, "over 64 KiB")
	}
	return nil
}

// messageLength gives the length of a handshake message with its header.
func messageLength(p []byte) (n int, known bool) {
	if len(p) < 4 {
		return 0, false
	}
	return 4 + int(p[1])<<16 + int(p[2])<<8 + int(p[3]), true
}
