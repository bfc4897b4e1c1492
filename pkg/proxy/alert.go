package proxy

import (
	"errors"

	"sallyport/pkg/sniff"
)

// alertOf gives the alert with which a hello is refused.
func alertOf(err error) byte {
	var bad *sniff.HelloError
	if errors.As(err, &bad) {
		return bad.Alert
	}
	return alertDecodeError
}
