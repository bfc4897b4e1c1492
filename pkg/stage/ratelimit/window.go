package ratelimit

// A window is a span of the UTC clock in which requests are counted.
type window uint8

const (
	second window = iota
	minute
	hour
	day
	windows
)

// lengths are in seconds. All divide a day, and days of UTC begin at multiples
// of its length.
var lengths = [windows]int64{1, 60, 3600, 86400}

var names = [windows]string{"second", "minute", "hour", "day"}

// A count is how many requests were counted in the window that begins at start,
// in seconds since 1970.
type count struct{ start, n int64 }

// roll makes c the count of the window of this length in which now lies. A
// clock that was put back does not begin the present window again: it stays
// until it is over, unless that is more than a whole window ahead.
func (c *count) roll(now, length int64) {
	start := now - now%length
	if start > c.start || c.start-start > length {
		*c = count{start: start}
	}
}
