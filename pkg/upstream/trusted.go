package upstream

// Trusted reports whether the connection was verified against what holds now.
// One that several exchanges share is asked before each: after SetTrust it
// takes no further one.
func (c *Conn) Trusted() bool { return c.trust == c.host.pool.trust.Load() }
