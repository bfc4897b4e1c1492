package cache

import (
	"net/http"
	"strings"
	"time"

	"sallyport/pkg/exchange"
)

func parseTime(s string) (time.Time, bool) {
	t, err := http.ParseTime(s)
	return t, err == nil
}

// holds reports whether the condition of a question says that the client has
// what the entry holds (RFC 9110 section 13.2.2): If-None-Match decides where it
// is there. Only an answer of 200 is conditional.
func (q *question) holds(e *entry) bool {
	switch {
	case e.status != http.StatusOK:
		return false
	case q.noneMatch != "":
		return listed(q.noneMatch, e.etag) || q.noneMatch == e.etag
	case q.modifiedSince != "":
		since, ok := parseTime(q.modifiedSince)
		if !ok {
			return false
		}
		if e.modified != "" {
			return !e.modifiedAt.After(since)
		}
		for i := range e.fields {
			if f := &e.fields[i]; f.ID == exchange.Date {
				date, ok := parseTime(f.Value)
				return ok && !date.After(since)
			}
		}
		return false
	default:
		return false
	}
}

// listed reports whether a list of entity tags, or "*", has one that compares
// weakly with tag.
func listed(list, tag string) bool {
	tag = strings.TrimPrefix(tag, "W/")
	for list = strings.TrimLeft(list, " \t,"); list != ""; list = strings.TrimLeft(list, " \t,") {
		if list[0] == '*' {
			return true
		}
		list = strings.TrimPrefix(list, "W/")
		if !strings.HasPrefix(list, `"`) {
			return false // no list of tags
		}
		end := strings.IndexByte(list[1:], '"')
		if end < 0 {
			return false
		}
		if tag != "" && list[:end+2] == tag {
			return true
		}
		list = list[end+2:]
	}
	return false
}
