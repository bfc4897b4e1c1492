// Package store keeps descriptors with the service manager, so that they outlive
// the process: systemd's file descriptor store (sd_pid_notify_with_fds(3),
// FileDescriptorStoreMax= in systemd.service(5)). What was put there comes back
// at the next start as LISTEN_FDS and LISTEN_FDNAMES (sd_listen_fds(3)).
package store

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// firstFD is the first of the descriptors that a service manager passes
// (SD_LISTEN_FDS_START).
const firstFD = 3

// maxTaken bounds the descriptors that are taken over: more than any unit of
// ours may store.
const maxTaken = 4096

// maxName is the longest name that systemd takes (FDNAME_MAX).
const maxName = 255

// A Store puts descriptors where the next process of this service finds them. A
// nil *Store does nothing and holds nothing: nobody keeps anything then. Its
// methods may be called from any goroutine.
type Store struct {
	// manager is the address of the service manager's socket.
	manager string

	mu sync.Mutex
	// taken are the descriptors of the process before, by name, that nobody has
	// asked for yet.
	taken map[string]*os.File
}

// Open takes over the descriptors that an earlier process stored, as the
// environment says (NOTIFY_SOCKET, LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES); it
// returns nil where that names no service manager. It may be called once: the
// descriptors are this Store's from then on.
func Open(getenv func(string) string) (*Store, error) {
	path := getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	s := &Store{manager: path, taken: make(map[string]*os.File)}
	if err := s.inherit(getenv); err != nil {
		return nil, err
	}
	return s, nil
}

// inherit takes the descriptors that are for this process.
func (s *Store) inherit(getenv func(string) string) error {
	if pid, err := strconv.Atoi(getenv("LISTEN_PID")); err != nil || pid != os.Getpid() || getenv("LISTEN_FDS") == "" {
		return nil // none, or those of a parent
	}
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > maxTaken {
		return fmt.Errorf("descriptor store: LISTEN_FDS=%q", getenv("LISTEN_FDS"))
	}
	names := strings.Split(getenv("LISTEN_FDNAMES"), ":")
	for i := range n {
		fd := firstFD + i
		unix.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "stored")
		if i >= len(names) || names[i] == "" || s.taken[names[i]] != nil {
			f.Close() // nobody could ask for it
			continue
		}
		s.taken[names[i]] = f
	}
	return nil
}

// Take gives the descriptor that was stored under a name, nil where there is
// none. The caller owns it; the service manager keeps its own copy until Drop.
func (s *Store) Take(name string) *os.File {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.taken[name]
	delete(s.taken, name)
	return f
}

// Put stores a copy of a descriptor. One that is stored already stays as it is.
func (s *Store) Put(name string, fd int) error {
	if s == nil {
		return nil
	}
	if !validName(name) {
		return fmt.Errorf("descriptor store: name %q", name)
	}
	// Without FDPOLL=0 systemd drops a descriptor on which an error shows up, and
	// a resolver's socket has one whenever an asker has gone (systemd 246).
	return s.send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, fd)
}

// Drop has the service manager forget what was stored under a name.
func (s *Store) Drop(name string) error {
	if s == nil {
		return nil
	}
	return s.send("FDSTOREREMOVE=1\nFDNAME="+name, -1)
}

func (s *Store) send(state string, fd int) error {
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("descriptor store: %w", err)
	}
	defer unix.Close(sock)
	// A first character @ means an abstract socket; x/sys/unix knows that too.
	if err := unix.Sendmsg(sock, []byte(state), oob, &unix.SockaddrUnix{Name: s.manager}, 0); err != nil {
		return fmt.Errorf("descriptor store: %w", err)
	}
	return nil
}

// Clear drops everything that was stored before and that nobody took: it does
// not fit any more.
func (s *Store) Clear() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	rest := s.taken
	s.taken = make(map[string]*os.File)
	s.mu.Unlock()
	var errs []error
	for name, f := range rest {
		errs = append(errs, s.Drop(name), f.Close())
	}
	return errors.Join(errs...)
}

// Names lists what was stored before and is not yet taken.
func (s *Store) Names() []string {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.taken))
	for name := range s.taken {
		names = append(names, name)
	}
	return names
}

// validName reports whether systemd takes a name (fdname_is_valid).
func validName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for _, c := range []byte(name) {
		if c < ' ' || c >= 127 || c == ':' {
			return false
		}
	}
	return true
}
