package throttle

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport/pkg/config"
	"sallyport/test/port"
)

// startNginx starts a real one with a location /N for each list of throttles,
// and gives its address.
func startNginx(t *testing.T, all [][]config.Throttle) string {
	t.Helper()
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		if nginx = "/usr/sbin/nginx"; !exists(nginx) {
			t.Skip("no nginx; scripts/setup test installs it")
		}
	}
	address := fmt.Sprint("127.0.0.1:", port.Free(t))
	dir := t.TempDir()
	var zones, locations strings.Builder
	for i, list := range all {
		fmt.Fprintf(&locations, "location /%d {\n", i)
		for j, c := range list {
			per := map[time.Duration]string{time.Second: "s", time.Minute: "m"}[c.Per]
			fmt.Fprintf(&zones, "limit_req_zone $server_port zone=z%d_%d:1m rate=%dr/%s;\n", i, j, c.Requests, per)
			fmt.Fprintf(&locations, "limit_req zone=z%d_%d burst=%d delay=%d;\n", i, j, c.Burst, c.Delay)
		}
		locations.WriteString("}\n")
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte("served"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "ping"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log warn;
events {}
http {
	access_log off; root %[1]s; limit_req_status 429; keepalive_requests 1000000;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	%[2]s
	server { listen %[3]s; %[4]s }
}`, dir, zones.String(), address, locations.String())
	// 0 is what nginx does without them, and refuses to read.
	text = strings.NewReplacer(" burst=0", "", " delay=0", "").Replace(text)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nginx, "-p", dir, "-c", conf)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// TestAsNginx: a real nginx admits, refuses and delays the same requests at the
// same times. Bursts come 0.3 s or more from where something would change. A try
// in which the machine was too busy even for that says nothing; two others that
// differ are a difference of the arithmetic, which is there each time.
func TestAsNginx(t *testing.T) {
	t.Parallel()
	const tries, tooLate = 8, 150 * time.Millisecond
	differed := 0
	for try := range tries {
		differences, late := differFromNginx(t)
		if len(differences) == 0 {
			return
		}
		t.Logf("try %d, with answers up to %s late:\n%s", try, late, strings.Join(differences, "\n"))
		if late > tooLate {
			continue
		}
		if differed++; differed == 2 {
			t.Fatal("differs from nginx each time")
		}
	}
	if differed > 0 {
		t.Fatal("differs from nginx")
	}
	t.Skip("the machine was too busy in every try")
}

// differFromNginx gives also how late the machine was at its worst: what a ping
// every few milliseconds, which nginx answers at once, waited for.
func differFromNginx(t *testing.T) (differences []string, late time.Duration) {
	throttle := func(burst, delay int64) config.Throttle {
		return config.Throttle{Requests: 1, Per: time.Second, Burst: burst, Delay: delay, By: byWorkload, Status: 429}
	}
	slow := config.Throttle{Requests: 30, Per: time.Minute, Burst: 4, Delay: 4, By: byWorkload, Status: 429}
	all := [][]config.Throttle{
		{throttle(0, 0)}, {throttle(3, 0)}, {throttle(3, 3)}, {throttle(4, 2)}, {slow},
		{throttle(5, 5), slow}, {throttle(2, 0), slow},
	}
	address := startNginx(t, all)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	bursts := []struct {
		at time.Duration
		n  int
	}{{0, 7}, {2400 * time.Millisecond, 3}, {3700 * time.Millisecond, 1}, {5300 * time.Millisecond, 5}, {10700 * time.Millisecond, 7}}
	const refused = -1 * time.Second
	// outcome is the delay of what was admitted.
	outcome := func(admitted bool, delay time.Duration) time.Duration {
		if !admitted {
			return refused
		}
		return delay
	}
	same := func(a, b time.Duration) bool {
		return (a == refused) == (b == refused) && (a-b).Abs() < 300*time.Millisecond
	}
	stop := make(chan struct{})
	var pinger sync.WaitGroup
	pinger.Go(func() {
		for last := time.Now(); ; last = time.Now() {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			resp, err := client.Get("http://" + address + "/ping")
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			late = max(late, time.Since(last)-5*time.Millisecond)
		}
	})
	var wg sync.WaitGroup
	var gathering sync.Mutex
	begin := time.Now().Add(100 * time.Millisecond)
	for i, list := range all {
		ours := New(fmt.Sprint(i), list, NewLevels())
		for _, b := range bursts {
			wg.Go(func() {
				time.Sleep(time.Until(begin.Add(b.at)))
				var mu sync.Mutex
				var theirs, mine []time.Duration
				var each sync.WaitGroup
				for range b.n {
					each.Go(func() {
						from := time.Now()
						resp, err := client.Get(fmt.Sprintf("http://%s/%d", address, i))
						if err != nil {
							t.Error(err)
							return
						}
						resp.Body.Close()
						if resp.StatusCode != 200 && resp.StatusCode != 429 {
							t.Errorf("nginx: %s", resp.Status)
						}
						mu.Lock()
						theirs = append(theirs, outcome(resp.StatusCode == 200, time.Since(from)))
						mu.Unlock()
					})
					each.Go(func() {
						from := time.Now()
						r := ours.Request(context.Background(), newExchange("w"))
						mu.Lock()
						mine = append(mine, outcome(r == nil, time.Since(from)))
						mu.Unlock()
					})
				}
				each.Wait()
				slices.Sort(theirs)
				slices.Sort(mine)
				if !slices.EqualFunc(theirs, mine, same) {
					gathering.Lock()
					differences = append(differences, fmt.Sprintf("limits %d, burst at %s: nginx %v, ours %v (-1s: refused, else the delay)", i, b.at, theirs, mine))
					gathering.Unlock()
				}
			})
		}
	}
	wg.Wait()
	close(stop)
	pinger.Wait()
	return differences, late
}
