package kong

import (
	"fmt"

	"sallyport/pkg/config"
	"sallyport/pkg/convert"
)

// A file is a declarative file as it is written, references by name or id.
type file struct {
	name string
	// modern is true from format 3.0 on: a regular expression begins with "~".
	modern    bool
	services  []*service
	routes    []*route
	upstreams []*upstream
	plugins   []*plugin
	// others are kinds of entities that have no counterpart.
	others []unread
}

// An unread key is one that the converter knows nothing of.
type unread struct {
	line int
	what string
}

// An entity has a name or an id, and a place.
type entity struct {
	name, id string
	line     int
}

// is reports whether a reference means the entity.
func (e *entity) is(ref string) bool { return ref != "" && (ref == e.name || ref == e.id) }

// ref gives what refers to the entity: one that has neither name nor id gets an
// id that no file can have.
func (e *entity) ref() string {
	if e.name != "" {
		return e.name
	}
	if e.id == "" {
		e.id = fmt.Sprintf("\x00line %d", e.line)
	}
	return e.id
}

// label is what a person calls the entity.
func (e *entity) label() string {
	if e.name != "" {
		return e.name
	}
	if e.id != "" && e.id[0] != 0 {
		return e.id
	}
	return fmt.Sprintf("line-%d", e.line)
}

type service struct {
	entity
	enabled              bool
	protocol, host, path string
	port                 int
	// retries is -1 where it is not set; so are the timeouts, in milliseconds.
	retries, connect, read, write int
	// verify is tls_verify: -1 not set, 0 false, 1 true.
	verify         int
	certificate    int
	caCertificates int
	unread         []unread
}

type route struct {
	entity
	service               string
	protocols             []string
	methods, hosts, paths []string
	headers               []convert.Header
	snis                  []string
	strip, preserveHost   bool
	handling              string
	priority              int
	expression            int
	stream                int
	unread                []unread
}

type upstream struct {
	entity
	algorithm          string
	hashOn, hashHeader string
	hashLine           int
	hostHeader         string
	targets            []target
	active, passive    *check
	unread             []unread
	certificate        int
}

type target struct {
	line   int
	target string
	weight int
}

type check struct {
	line                int
	kind, path          string
	timeout             float64
	healthyInterval     float64
	unhealthyInterval   float64
	successes           int
	http, tcp, timeouts int
	healthyStatuses     []int
	unhealthyStatuses   []int
	unhealthyLine       int
	unread              []unread
}

type plugin struct {
	line    int
	name    string
	enabled bool
	config  config.Value
	// mixed is set where the configuration is joined from two places.
	mixed bool
	// A plugin holds for what it names; service and route may both be set.
	service, route, consumer string
}
