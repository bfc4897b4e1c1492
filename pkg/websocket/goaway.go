package websocket

// Going is the Close frame of a server that goes away (RFC 6455 sections 5.5.1
// and 7.4.1): code 1001, not masked.
const Going = "\x88\x02\x03\xe9"

// Between reports whether what passed so far ends between two frames, so that a
// frame of ours may follow: a control frame may stand within a fragmented message
// (RFC 6455 section 5.4).
func (c *Counter) Between() bool { return !c.inside && c.have == 0 && !c.closed && !c.lost }
