package http2

import "encoding/binary"

// Settings of RFC 9113 section 6.5.2 and RFC 8441 section 3.
const (
	settingTableSize       = 1
	settingEnablePush      = 2
	settingMaxStreams      = 3
	settingInitialWindow   = 4
	settingMaxFrame        = 5
	settingMaxList         = 6
	settingExtendedConnect = 8
)

func appendSetting(b []byte, id uint16, value uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, id), value)
}

// appendSettings appends what we say first, and the window of the connection.
// The lock is held.
func (c *conn) appendSettings(settings []byte) {
	c.out.b = append(appendFrameHeader(c.output(), len(settings), frameSettings, 0, 0), settings...)
	c.appendWindowUpdate(0, connWindow-initialWindow)
	c.recvWindow = connWindow
}

func (c *conn) onSettings(h frameHeader, p []byte) error {
	switch {
	case h.id != 0:
		return fault(ProtocolFault, "SETTINGS on a stream")
	case h.flags&flagAck != 0:
		if len(p) != 0 {
			return fault(FrameSizeError, "acknowledgement of SETTINGS that is not empty")
		}
		return c.floods.useless()
	case len(p)%6 != 0:
		return fault(FrameSizeError, "SETTINGS of a length that is no multiple of 6")
	}
	c.mu.Lock()
	defer c.unlock()
	window := c.peerWindow
	for ; len(p) > 0; p = p[6:] {
		id, value := binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])
		switch id {
		case settingTableSize:
			c.enc.setLimit(int(min(value, tableSize)))
		case settingEnablePush:
			if value > 1 || value == 1 && c.cli != nil {
				return fault(ProtocolFault, "invalid SETTINGS_ENABLE_PUSH")
			}
		case settingMaxStreams:
			if c.cli != nil {
				c.cli.peerStreams = value
			}
		case settingInitialWindow:
			if value > maxWindow {
				return fault(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE over 2^31-1")
			}
			window = int64(value)
		case settingMaxFrame:
			if value < 1<<14 || value > 1<<24-1 {
				return fault(ProtocolFault, "invalid SETTINGS_MAX_FRAME_SIZE")
			}
			// Larger frames would hold up other streams and gain nothing.
			c.peerFrame = min(int(value), maxFrame)
		case settingExtendedConnect:
			if value > 1 || value == 0 && c.cli != nil && c.cli.extended {
				return fault(ProtocolFault, "invalid SETTINGS_ENABLE_CONNECT_PROTOCOL")
			}
			if c.cli != nil {
				c.cli.extended = value == 1
			}
		}
	}
	if err := c.moveWindows(window); err != nil {
		return err
	}
	c.appendSettingsAck()
	if c.cli != nil {
		c.cli.settled()
	}
	return c.floods.settings()
}

// moveWindows changes the windows of all streams by the difference to the
// initial window before, which may leave them negative (RFC 9113 section
// 6.9.2).
func (c *conn) moveWindows(window int64) error {
	delta := window - c.peerWindow
	c.peerWindow = window
	if delta == 0 {
		return nil
	}
	for _, s := range c.streams {
		if s.sendWindow+delta > maxWindow {
			return fault(FlowControlError, "window over 2^31-1")
		}
		s.sendWindow += delta
		if delta > 0 {
			s.scond.Broadcast()
		}
	}
	return nil
}
