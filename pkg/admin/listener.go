package admin

import (
	"fmt"
	"net"
	"sync"

	"go.uber.org/zap"
)

// A peerListener knows who connects, and bounds how many do.
type peerListener struct {
	net.Listener
	log *zap.Logger

	mu     sync.Mutex
	conns  int
	others int
	uids   map[uint32]int
}

// A peerConn is a connection with its peer.
type peerConn struct {
	net.Conn
	peer   *Peer
	closed sync.Once
	leave  func()
}

func newPeerListener(l net.Listener, log *zap.Logger) *peerListener {
	return &peerListener{Listener: l, log: log, uids: make(map[uint32]int)}
}

// Accept gives the next connection that has a place. One that has none, or of
// whose peer nothing can be known, is closed without an answer.
func (l *peerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		accepted, err := l.admit(conn)
		if err == nil {
			return accepted, nil
		}
		conn.Close()
		l.log.Debug("connection to the admin socket refused", zap.Error(err))
	}
}

func (l *peerListener) admit(conn net.Conn) (*peerConn, error) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%T is not a unix socket", conn)
	}
	peer, err := peerOf(unixConn)
	if err != nil {
		return nil, err
	}
	if err := l.enter(peer.UID); err != nil {
		peer.close()
		return nil, err
	}
	return &peerConn{Conn: conn, peer: peer, leave: func() {
		l.exit(peer.UID)
		peer.close()
	}}, nil
}

func (l *peerListener) enter(uid uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns >= maxConns || uid != 0 && (l.others >= maxOthers || l.uids[uid] >= maxPerUID) {
		return fmt.Errorf("too many connections (uid %d)", uid)
	}
	l.conns++
	if uid != 0 {
		l.others++
		l.uids[uid]++
	}
	return nil
}

func (l *peerListener) exit(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns--
	if uid == 0 {
		return
	}
	l.others--
	if l.uids[uid]--; l.uids[uid] == 0 {
		delete(l.uids, uid)
	}
}

// Close frees the place, once.
func (c *peerConn) Close() error {
	err := c.Conn.Close()
	c.closed.Do(c.leave)
	return err
}
