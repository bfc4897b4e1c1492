// Package engine asks the host's container engines, Docker and Podman, which
// container an id is.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"

	"sallyport/pkg/workload"
)

// Sockets are where the engines of root listen. One that a user runs is not
// asked: it could say of any id what it likes.
var Sockets = [...]string{"/run/docker.sock", "/run/podman/podman.sock"}

const (
	// remembered bounds the containers that are remembered; the one unused for
	// longest is asked for again.
	remembered = 4096
	// timeout bounds a question to all engines: a connection waits for it.
	timeout = time.Second
	// pause is how long an id for which no engine had an answer is not asked for
	// again.
	pause = 2 * time.Second
	// maxAnswer bounds an answer, in bytes: an inspected container is some 20 KB.
	maxAnswer = 1 << 20
	// maxQuestions bounds the questions that wait at the same time.
	maxQuestions = 16
	// startPoll is how often a container is asked for that has no process yet.
	startPoll = 50 * time.Millisecond
)

var (
	// ErrUnknown says that no engine knows the container, or none answers.
	ErrUnknown = errors.New("no container engine knows it")
	errBusy    = errors.New("too many questions to container engines")
	errNotRoot = errors.New("not run by root")
)

// Engines asks and remembers. It is safe for concurrent use.
type Engines struct {
	sockets []string
	// owner is the user whose engines are believed.
	owner uint32
	// cgroup gives the cgroup of a process.
	cgroup func(pid int) (string, error)
	asking chan struct{}
	// timeout and pause are the constants but in tests, which do not judge how soon a
	// busy host answers.
	timeout, pause time.Duration

	known   *lru.Cache[string, workload.Container]
	unknown *lru.Cache[string, time.Time]
}

// New asks the engines behind the sockets, in that order.
func New(sockets ...string) (*Engines, error) {
	known, err := lru.New[string, workload.Container](remembered)
	if err != nil {
		return nil, err
	}
	unknown, err := lru.New[string, time.Time](remembered)
	if err != nil {
		return nil, err
	}
	return &Engines{
		sockets: sockets, asking: make(chan struct{}, maxQuestions), known: known, unknown: unknown, timeout: timeout, pause: pause,
		cgroup: func(pid int) (string, error) {
			p, err := workload.LookUp(pid)
			return p.Cgroup, err
		},
	}, nil
}

// Container tells what an engine knows of the container with that id, in full.
// What was once found is remembered: a container keeps its image and its labels,
// and a new name holds from the next start of the daemon. It takes at most a
// second; errors wrap ErrUnknown.
func (e *Engines) Container(id string) (workload.Container, error) {
	if c, ok := e.known.Get(id); ok {
		return c, nil
	}
	if at, ok := e.unknown.Get(id); ok && time.Since(at) < e.pause {
		return workload.Container{}, fmt.Errorf("container %s: %w", id, ErrUnknown)
	}
	select {
	case e.asking <- struct{}{}:
		defer func() { <-e.asking }()
	default:
		return workload.Container{}, fmt.Errorf("container %s: %w: %w", id, ErrUnknown, errBusy)
	}
	ctx, cancel := context.WithTimeout(context.Background(), e.timeout)
	defer cancel()
	var errs []error
	for _, socket := range e.sockets {
		c, err := e.ask(ctx, socket, id)
		if err == nil {
			e.known.Add(id, c)
			e.unknown.Remove(id)
			return c, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", socket, err))
	}
	e.unknown.Add(id, time.Now())
	return workload.Container{}, fmt.Errorf("container %s: %w: %w", id, ErrUnknown, errors.Join(errs...))
}

// Resources says how full the memory is, and how many questions are under way.
func (e *Engines) Resources() []workload.Resource {
	return []workload.Resource{
		{Name: "containers", Entries: e.known.Len(), Capacity: remembered},
		{Name: "containers_unknown", Entries: e.unknown.Len(), Capacity: remembered},
		{Name: "container_questions", Entries: len(e.asking), Capacity: maxQuestions},
	}
}

// inspected is what is read of an engine's answer (Docker Engine API, ContainerInspect).
type inspected struct {
	ID    string `json:"Id"`
	Name  string
	State struct{ Pid int }
	// Config.Image is as it was given to run.
	Config struct {
		Image  string
		Labels map[string]string
	}
}

// ask inspects a container, and proves by its first process which cgroup is its.
func (e *Engines) ask(ctx context.Context, socket, id string) (workload.Container, error) {
	for {
		in, err := e.inspect(ctx, socket, id)
		if err != nil {
			return workload.Container{}, err
		}
		if in.State.Pid > 0 {
			cgroup, err := e.cgroup(in.State.Pid)
			if err != nil {
				return workload.Container{}, err
			}
			return workload.Container{Name: strings.TrimPrefix(in.Name, "/"), Image: in.Config.Image, Labels: in.Config.Labels, Cgroup: cgroup}, nil
		}
		// Its first connection can come before the engine has written down that it
		// runs.
		select {
		case <-ctx.Done():
			return workload.Container{}, errors.New("it has no process")
		case <-time.After(startPoll):
		}
	}
}

func (e *Engines) inspect(ctx context.Context, socket, id string) (inspected, error) {
	var in inspected
	transport := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return e.dial(ctx, socket) },
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine/containers/"+id+"/json", nil)
	if err != nil {
		return in, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return in, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return in, fmt.Errorf("status %d", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return in, err
	case len(data) > maxAnswer:
		return in, fmt.Errorf("the answer is over %d bytes", maxAnswer)
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return in, err
	}
	if in.ID != id {
		return in, fmt.Errorf("the answer is about %q", in.ID)
	}
	return in, nil
}

// dial connects to an engine and asks the kernel who it is.
func (e *Engines) dial(ctx context.Context, socket string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		err = cerr
	}
	if err == nil && cred.Uid != e.owner {
		err = errNotRoot
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}
