package http2

import (
	"iter"
	"sync/atomic"
)

// A Cause is why a connection or a stream was ended to protect us.
type Cause uint8

// The causes.
const (
	// RapidReset: a peer opened and reset streams, or made us reset them,
	// faster than they were served.
	RapidReset Cause = iota
	// ContinuationFlood: a header block in too many frames or bytes.
	ContinuationFlood
	SettingsFlood
	PingFlood
	// EmptyFrames: DATA without content or end.
	EmptyFrames
	// UselessFrames: PRIORITY and frames of unknown types.
	UselessFrames
	WindowUpdateFlood
	// TinyWindow: windows shut for too long, or opened by a few bytes at a time.
	TinyWindow
	// ControlQueue: a peer that makes us answer and does not read the answers.
	ControlQueue
	// HeaderList: a header list over its bounds; the stream was refused.
	HeaderList
	// ProtocolError: anything else that RFC 9113 forbids to a connection.
	ProtocolError

	causes
)

var causeNames = [causes]string{
	RapidReset: "rapid_reset", ContinuationFlood: "continuation_flood", SettingsFlood: "settings_flood",
	PingFlood: "ping_flood", EmptyFrames: "empty_frames", UselessFrames: "useless_frames",
	WindowUpdateFlood: "window_update_flood", TinyWindow: "tiny_window", ControlQueue: "control_queue",
	HeaderList: "header_list", ProtocolError: "protocol_error",
}

// String gives the cause as metrics print it.
func (c Cause) String() string { return causeNames[c] }

type counters [causes]atomic.Uint64

func (c *counters) add(cause Cause) { c[cause].Add(1) }

// Counters walks how often each cause has ended something since the start.
func (c *Codec) Counters() iter.Seq2[Cause, uint64] {
	return func(yield func(Cause, uint64) bool) {
		for cause := range causes {
			if !yield(cause, c.counters[cause].Load()) {
				return
			}
		}
	}
}
