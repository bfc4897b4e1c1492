package resolver

import (
	"container/list"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"time"

	"sallyport/pkg/policy/address"
)

const (
	// standinTTL is what clients are told. Whoever asks again gets the same.
	standinTTL = time.Minute
	// standinMemory is how long an address stands for its name after it was told
	// or used last: programs hold addresses far longer than the TTL says.
	standinMemory = time.Hour
	// standinFloor is how long it does so even where room is needed.
	standinFloor = standinTTL + time.Minute
	// standinRest is how long an address that stood for a name stands for none:
	// who still holds it then is refused, never led elsewhere.
	standinRest = time.Hour
	// maxStandin is the last number: all of 198.18.0.0/15 but its first and last
	// address, which some take for a network and its broadcast address.
	maxStandin = 1<<17 - 2
)

// errNoStandin says that a name got no address because none may be taken away
// from another yet.
var errNoStandin = errors.New("no address is left to stand for this name")

// standins are the addresses that the resolver gives to names which leave by an
// upstream proxy: nobody here resolves those. Each stands for one name of one
// workload. The IPv4 and the IPv6 address of a name have the same number.
type standins struct {
	max, maxOfWorkload int

	mu       sync.Mutex
	names    map[standinKey]*standin
	numbers  map[uint32]*standin
	crowds   map[string]*crowd
	unused   uint32          // the first number that was never given
	resting  []restingNumber // the one freed longest ago first
	firstOff int
	free     []uint32       // those that have rested, in that order
	rest     map[string]int // how many rest after each workload
}

type standinKey struct{ workload, name string }

// A crowd is the addresses of one workload.
type crowd struct {
	n int
	// idle are those that no flow uses, the one told or used longest ago first.
	idle list.List
}

// A standin is an address that stands for a name.
type standin struct {
	key    standinKey
	number uint32
	// last is when it was told or used.
	last  time.Time
	flows int
	// place is among the idle ones; nil while flows use it.
	place *list.Element
}

type restingNumber struct {
	number   uint32
	since    time.Time
	workload string
}

// restingShare is the part of all numbers that one workload may hold back, those
// that rest after it included. Else two that ask for ever new names would leave
// none to all others.
const restingShare = 8

func newStandins(total, ofWorkload int) *standins {
	return &standins{
		max: min(total, maxStandin), maxOfWorkload: min(ofWorkload, total),
		names: make(map[standinKey]*standin), numbers: make(map[uint32]*standin), crowds: make(map[string]*crowd), unused: 1,
		rest: make(map[string]int),
	}
}

// tell gives the number for a name, the same as long as it is remembered. When
// all are taken, of the workload or of everybody, one is taken back that was not
// told for standinFloor and that no flow uses, from the workload that has most;
// where there is none the error is errNoStandin.
func (s *standins) tell(workload, name string, now time.Time) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := standinKey{workload, name}
	if e := s.names[key]; e != nil {
		e.last = now
		if e.place != nil {
			s.crowds[workload].idle.MoveToBack(e.place)
		}
		return e.number, nil
	}
	s.wake(now)
	if s.rest[workload]+s.told(workload) >= max(maxStandin/restingShare, s.maxOfWorkload) {
		return 0, errNoStandin
	}
	c := s.crowds[workload]
	switch {
	case c != nil && c.n >= s.maxOfWorkload:
		if !s.evict(c, now) {
			return 0, errNoStandin
		}
	case len(s.names) >= s.max:
		if !s.evict(s.largest(), now) {
			return 0, errNoStandin
		}
	}
	number, ok := s.number()
	if !ok {
		return 0, errNoStandin
	}
	if c = s.crowds[workload]; c == nil {
		c = &crowd{}
		s.crowds[workload] = c
	}
	e := &standin{key: key, number: number, last: now}
	e.place = c.idle.PushBack(e)
	c.n++
	s.names[key], s.numbers[number] = e, e
	return number, nil
}

// told counts the names of a workload that have an address.
func (s *standins) told(workload string) int {
	if c := s.crowds[workload]; c != nil {
		return c.n
	}
	return 0
}

// wake frees the numbers that have rested for long enough.
func (s *standins) wake(now time.Time) {
	for s.firstOff < len(s.resting) && now.Sub(s.resting[s.firstOff].since) >= standinRest {
		r := &s.resting[s.firstOff]
		s.free = append(s.free, r.number)
		if s.rest[r.workload]--; s.rest[r.workload] == 0 {
			delete(s.rest, r.workload)
		}
		s.firstOff++
	}
	if s.firstOff > len(s.resting)/2 {
		s.resting = append(s.resting[:0], s.resting[s.firstOff:]...)
		s.firstOff = 0
	}
}

// number takes one that never stood for a name, or has not for long enough.
func (s *standins) number() (uint32, bool) {
	if s.unused <= maxStandin {
		s.unused++
		return s.unused - 1, true
	}
	if len(s.free) == 0 {
		return 0, false
	}
	n := s.free[0]
	if s.free = s.free[1:]; len(s.free) == 0 {
		s.free = nil
	}
	return n, true
}

func (s *standins) largest() *crowd {
	var largest *crowd
	for _, c := range s.crowds {
		if largest == nil || c.n > largest.n {
			largest = c
		}
	}
	return largest
}

func (s *standins) evict(c *crowd, now time.Time) bool {
	oldest := c.idle.Front()
	if oldest == nil || now.Sub(oldest.Value.(*standin).last) < standinFloor {
		return false
	}
	s.drop(oldest.Value.(*standin), now)
	return true
}

// drop takes an address back that no flow uses.
func (s *standins) drop(e *standin, now time.Time) {
	c := s.crowds[e.key.workload]
	c.idle.Remove(e.place)
	if c.n--; c.n == 0 {
		delete(s.crowds, e.key.workload)
	}
	delete(s.names, e.key)
	delete(s.numbers, e.number)
	s.resting = append(s.resting, restingNumber{e.number, now, e.key.workload})
	s.rest[e.key.workload]++
}

// of finds what an address stands for; nil for what it does not mean to this
// workload.
func (s *standins) of(workload string, addr netip.Addr) *standin {
	number, ok := standinNumber(addr)
	if !ok {
		return nil
	}
	if e := s.numbers[number]; e != nil && e.key.workload == workload {
		return e
	}
	return nil
}

// name gives the name that an address stands for.
func (s *standins) name(workload string, addr netip.Addr) (string, bool) {
	if !address.IsSynthetic(addr) {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.of(workload, addr); e != nil {
		return e.key.name, true
	}
	return "", false
}

// use says that a flow begins (by +1) or ends (by -1) that was made to addr.
func (s *standins) use(workload string, addr netip.Addr, by int, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.of(workload, addr)
	if e == nil {
		return false
	}
	idle := &s.crowds[workload].idle
	if e.place != nil {
		idle.Remove(e.place)
		e.place = nil
	}
	e.last = now
	if e.flows = max(0, e.flows+by); e.flows == 0 {
		e.place = idle.PushBack(e)
	}
	return true
}

// sweep drops what is too old.
func (s *standins) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.crowds {
		s.sweepCrowd(c, now)
	}
}

func (s *standins) sweepCrowd(c *crowd, now time.Time) {
	for oldest := c.idle.Front(); oldest != nil; oldest = c.idle.Front() {
		e := oldest.Value.(*standin)
		if now.Sub(e.last) < standinMemory {
			return
		}
		s.drop(e, now)
	}
}

func (s *standins) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.names)
}

// standin4 and standin6 give the addresses of a number.
func standin4(number uint32) netip.Addr {
	base := address.Synthetic4.Addr().As4()
	binary.BigEndian.PutUint32(base[:], binary.BigEndian.Uint32(base[:])+number)
	return netip.AddrFrom4(base)
}

func standin6(number uint32) netip.Addr {
	base := address.Synthetic6.Addr().As16()
	binary.BigEndian.PutUint32(base[12:], number)
	return netip.AddrFrom16(base)
}

// standinNumber gives the number of an address that could be one of ours.
func standinNumber(addr netip.Addr) (uint32, bool) {
	addr = addr.Unmap()
	var number uint32
	switch {
	case address.Synthetic4.Contains(addr):
		base, b := address.Synthetic4.Addr().As4(), addr.As4()
		number = binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(base[:])
	case address.Synthetic6.Contains(addr):
		b := addr.As16()
		number = binary.BigEndian.Uint32(b[12:])
		if standin6(number) != addr {
			return 0, false
		}
	default:
		return 0, false
	}
	return number, number >= 1 && number <= maxStandin
}

// Hold says that a flow of the workload to addr begins, and reports whether that
// stands for a name. While flows use it, it stays with that name: after true the
// end of the flow must be told by Release with the same arguments.
func (r *Resolver) Hold(workload string, addr netip.Addr) bool {
	return address.IsSynthetic(addr) && r.standins.use(workload, addr, 1, r.now())
}

// Release says that a flow has ended for which Hold gave true.
func (r *Resolver) Release(workload string, addr netip.Addr) {
	r.standins.use(workload, addr, -1, r.now())
}
