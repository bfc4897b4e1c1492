package http2

import "time"

// A worker is a goroutine that handles one stream after the other: one that has
// run already has the stack that a request needs.
type worker struct{ next chan *ServerStream }

// dispatch has the stream handled. The lock is held.
func (s *ServerConn) dispatch(st *ServerStream) {
	s.running++
	s.trimAt = time.Time{}
	if n := len(s.parked); n > 0 {
		w := s.parked[n-1]
		s.parked = s.parked[:n-1]
		w.next <- st
		return
	}
	s.workers.Add(1)
	go s.work(st)
}

// dispatchFresh has the requests handled whose head came last. The lock is held.
func (s *ServerConn) dispatchFresh() {
	for i, st := range s.fresh {
		s.fresh[i] = nil
		s.dispatch(st)
	}
	s.fresh = s.fresh[:0]
}

func (s *ServerConn) work(st *ServerStream) {
	defer s.workers.Done()
	w := &worker{next: make(chan *ServerStream, 1)}
	for ok := true; ok; {
		st.run(s.handle)
		if !s.finish(st, w) {
			return
		}
		st, ok = <-w.next
	}
}

// finish ends a stream whose handle has returned, and parks the worker; false
// is that there will be nothing more to do.
func (s *ServerConn) finish(st *ServerStream, w *worker) bool {
	c := &s.c
	c.mu.Lock()
	st.close()
	s.running--
	s.settle()
	parked := c.err == nil
	if parked {
		s.parked = append(s.parked, w)
		if s.running == 0 {
			s.trimAt = time.Now().Add(workerTime)
			c.watch.at(c, s.trimAt)
		}
	}
	c.flushSoon()
	c.unlock()
	s.o.Exchanges.Put(st.x)
	c.codec.putServerStream(st)
	return parked
}

// dismiss ends the workers that have nothing to do. The lock is held.
func (s *ServerConn) dismiss() {
	for _, w := range s.parked {
		close(w.next)
	}
	s.parked = nil
}
