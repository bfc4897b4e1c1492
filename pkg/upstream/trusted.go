package upstream

// Trusted reports whether the connection was verified against what holds now.
// One that several exchanges share is asked before each: after SetTrust it
// takes no further one.
func (c *Conn) Trusted() bool { return c.trust == c.host.pool.trust.Load() }

// Adopt makes a connection that was opened for another offer of protocols one of
// h's, as if its upstream had been offered those of h alone: the upstream chose
// HTTP/1.1, or nothing. It reports whether c stands for the same and could be
// one; then it counts as one that may have been closed since. The caller owns c.
func (h *Host) Adopt(c *Conn, r Route) bool {
	key := c.host.key
	key.ALPN = h.key.ALPN
	if key != h.key || h.gone.Load() || !h.Permits(r, c.addr) || !c.Trusted() ||
		c.protocol != "" && c.protocol != "http/1.1" {
		return false
	}
	c.host, c.reused = h, true
	return true
}
