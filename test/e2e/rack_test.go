package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"sallyport/test/outside"
)

// A rack is a network that hosts share, with a Redis in it.
type rack struct {
	t     *testing.T
	ns    *os.File
	dir   string
	redis *exec.Cmd
	hosts int
}

func newRack(t *testing.T) *rack {
	t.Helper()
	r := &rack{t: t, ns: outside.NewNamespace(t), dir: t.TempDir()}
	inNetns(t, r.ns, func() { sh(t, "ip link set lo up") })
	r.start()
	t.Cleanup(r.stop)
	return r
}

// start starts Redis, which knows nothing.
func (r *rack) start() {
	r.t.Helper()
	inNetns(r.t, r.ns, func() {
		c := exec.Command("redis-server", "--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", r.dir, "--logfile", "log")
		if err := c.Start(); err != nil {
			r.t.Errorf("redis-server: %v; scripts/setup test installs it", err)
			return
		}
		r.redis = c
	})
	eventually(r.t, 10*time.Second, "redis answers", func() bool {
		answers := false
		inNetns(r.t, r.ns, func() {
			c, err := net.DialTimeout("tcp", "127.0.0.1:6379", time.Second)
			if answers = err == nil; answers {
				c.Close()
			}
		})
		return answers
	})
}

// stop kills Redis, which forgets everything.
func (r *rack) stop() {
	if r.redis != nil {
		r.redis.Process.Kill()
		r.redis.Wait()
		r.redis = nil
	}
}

// plug connects a host to the rack and gives the address of Redis for it.
func (r *rack) plug(h *host) string {
	r.t.Helper()
	r.hosts++
	server, client := fmt.Sprintf("192.0.2.%d", 4*r.hosts+1), fmt.Sprintf("192.0.2.%d", 4*r.hosts+2)
	inNetns(r.t, r.ns, func() {
		sh(r.t, fmt.Sprintf("ip link add rk%d type veth peer name eth1 netns %d", r.hosts, h.pid))
		sh(r.t, fmt.Sprintf("ip addr add %s/30 dev rk%d && ip link set rk%d up", server, r.hosts, r.hosts))
	})
	if out := h.sh("ip addr add " + client + "/30 dev eth1 && ip link set eth1 up"); out.code != 0 {
		r.t.Fatalf("rack: %v", out)
	}
	return server + ":6379"
}
