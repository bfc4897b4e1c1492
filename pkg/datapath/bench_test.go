package datapath_test

import (
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"sallyport/pkg/datapath"
)

// measure does n operations against the address and gives the time it took.
func measure(what, addr string, n int) (time.Duration, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, err
	}
	p, err := strconv.Atoi(port)
	if err != nil {
		return 0, err
	}
	sa := &unix.SockaddrInet4{Port: p, Addr: [4]byte(net.ParseIP(host).To4())}
	start := time.Now()
	switch what {
	case "connect":
		for range n {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return 0, err
			}
			if err := unix.Connect(fd, sa); err != nil {
				return 0, err
			}
			if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
				return 0, err
			}
			if err := unix.Close(fd); err != nil {
				return 0, err
			}
		}
	case "packets":
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return 0, err
		}
		if err := unix.Connect(fd, sa); err != nil {
			return 0, err
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return 0, err
		}
		start = time.Now()
		// One byte there and back: a segment of ours for each, data or ACK.
		b := []byte{0}
		for range n {
			if _, err := unix.Write(fd, b); err != nil {
				return 0, err
			}
			if _, err := unix.Read(fd, b); err != nil {
				return 0, err
			}
		}
	}
	return time.Since(start), nil
}

// BenchmarkConnect compares connect and close in a tagged cgroup with the same
// outside: the difference is what a connection pays for redirection, places and
// hand-over.
func BenchmarkConnect(b *testing.B) { compare(b, "connect") }

// BenchmarkRoundTrip compares one byte there and back: the difference is egress.
func BenchmarkRoundTrip(b *testing.B) { compare(b, "packets") }

func compare(b *testing.B, what string) {
	w := newWorld(b, func(o *datapath.Options) { o.Places = 4096 })
	tagged, plain := w.workload("a"), w.cgroup("plain")
	for _, bb := range []struct{ name, dir, addr string }{
		{"untagged", plain, w.listeners().TCP4.String()},
		{"tagged", tagged, "203.0.113.1:443"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			c := w.spawn(bb.dir)
			r := c.must(call{Op: "measure", Path: what, Addr: bb.addr, Count: b.N})
			b.ReportMetric(float64(r.Value)/float64(b.N), "ns/op")
			c.end()
		})
	}
}

// BenchmarkEgress gives the time of the egress program itself, which the kernel
// counts; statistics add about 20 ns to each run.
func BenchmarkEgress(b *testing.B) {
	w := newWorld(b, func(o *datapath.Options) { o.Places = 4096 })
	dir := w.workload("a")
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	l, _ := pinned(b, w, ownerOf(b, dir), "egress")
	info, err := l.Info()
	if err != nil {
		b.Fatal(err)
	}
	prog, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		b.Fatal(err)
	}
	defer prog.Close()
	before, err := prog.Stats()
	if err != nil {
		b.Fatal(err)
	}
	c := w.spawn(dir)
	c.must(call{Op: "measure", Path: "packets", Addr: "203.0.113.1:443", Count: b.N})
	c.end()
	after, err := prog.Stats()
	if err != nil {
		b.Fatal(err)
	}
	runs := after.RunCount - before.RunCount
	if runs < uint64(b.N) {
		b.Fatalf("egress ran %d times for %d packets", runs, b.N)
	}
	b.ReportMetric(float64((after.Runtime-before.Runtime).Nanoseconds())/float64(runs), "ns/packet")
}

// BenchmarkCreate is what every `exec` without a daemon waits for.
func BenchmarkCreate(b *testing.B) {
	needRoot(b)
	root := cgroupRoot(b)
	o := datapath.Options{PinDir: filepath.Join(bpffs(b), "x"), CgroupRoot: root, KeeperCgroup: root, Places: 4096}
	for b.Loop() {
		d, err := datapath.Create(o)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := d.Unload(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
