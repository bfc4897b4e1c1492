package ratelimit

import (
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"

	"sallyport/pkg/config"
)

// connectTimeout bounds what a start and a reload wait for a Redis that does not
// answer, whatever redis.timeout is.
const connectTimeout = time.Second

//go:embed take.lua
var takeScript string

//go:embed giveback.lua
var giveBackScript string

// scripts are sent by their hash, and whole where the server has forgotten them.
type scripts struct{ take, giveBack *valkey.Lua }

func newScripts() scripts {
	return scripts{take: valkey.NewLuaScript(takeScript), giveBack: valkey.NewLuaScriptNoSha(giveBackScript)}
}

// errAway says that Redis is away and was not asked.
var errAway = errors.New("redis is away")

// A Server says which Redis it is, with the contents of its files.
type Server struct {
	config.Redis
	Password string
	// CA are certificates in PEM, trusted besides those of the host.
	CA string
}

// A link is a server, through any number of connections.
type link struct {
	scripts scripts
	server  Server
	option  valkey.ClientOption
	client  atomic.Pointer[valkey.Client]
	away    atomic.Bool
	// outages counts how often it went away.
	outages atomic.Uint64
	// ahead is how far its clock is ahead of ours, in µs.
	ahead atomic.Int64
}

func (l *link) options() error {
	r := &l.server
	l.option = valkey.ClientOption{
		InitAddress: []string{r.Address}, Username: r.Username, Password: r.Password, SelectDB: r.DB,
		ClientName: "sallyport", ClientSetInfo: valkey.DisableClientSetInfo,
		Dialer: net.Dialer{Timeout: min(r.Timeout, connectTimeout)},
		// A whole answer is a few hundred bytes.
		ReadBufferEachConn: 32 << 10, WriteBufferEachConn: 32 << 10, RingScaleEachConn: 10,
		PipelineMultiplex: -1,
		ConnWriteTimeout:  max(r.Timeout, time.Second),
		// A request that may have been counted must not be counted again.
		DisableRetry: true,
		// Without it Redis 5 and proxies are refused.
		DisableCache: true,
	}
	if !r.TLS {
		return nil
	}
	host, _, err := net.SplitHostPort(r.Address)
	if err != nil {
		return err
	}
	l.option.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if r.CA == "" {
		return nil
	}
	pool, err := x509.SystemCertPool() // a copy
	if err != nil {
		return err
	}
	if !pool.AppendCertsFromPEM([]byte(r.CA)) {
		return fmt.Errorf("ca_file %s holds no certificate", r.CAFile)
	}
	l.option.TLSConfig.RootCAs = pool
	return nil
}

// probe does what a request does, on a key of its own, and connects first where
// that has not succeeded yet.
func (l *link) probe() error {
	if l.client.Load() == nil {
		c, err := valkey.NewClient(l.option)
		if err != nil {
			return err
		}
		l.client.Store(&c)
	}
	limits := [windows]int64{1 << 40}
	_, _, err := l.take([]sharedTake{{key: l.server.Prefix + "{probe}", limits: &limits}}, min(l.server.Timeout, connectTimeout))
	return err
}

func (l *link) close() {
	if c := l.client.Load(); c != nil {
		(*c).Close()
	}
}

// now gives the server's time, as far as it is known, in seconds since 1970.
func (l *link) now(t time.Time) int64 { return (t.UnixMicro() + l.ahead.Load()) / 1_000_000 }
