package main

import (
	"fmt"
	"net"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// dialPause lies between two connects, so that who accepts has done with one
// before the next: what is measured is a connect, not a queue.
const dialPause = time.Millisecond

// dials measures connect() alone: a blocking socket on a thread of its own,
// and nothing but the system call between the two looks at the clock. The
// sockets are reset, so that none waits for anything afterwards.
func (j *job) dials(ready func() error) (result, error) {
	host, port, err := net.SplitHostPort(j.Address)
	if err != nil {
		return result{}, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return result{}, err
	}
	to := &unix.SockaddrInet4{Port: number}
	copy(to.Addr[:], net.ParseIP(host).To4())
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	one := func() (time.Duration, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return 0, err
		}
		begin := time.Now()
		err = unix.Connect(fd, to)
		took := time.Since(begin)
		if err != nil {
			return 0, fmt.Errorf("connect: %w", err)
		}
		return took, nil
	}
	load := func(window time.Duration) (times []time.Duration, err error) {
		for end := time.Now().Add(window); time.Now().Before(end); time.Sleep(dialPause) {
			took, err := one()
			if err != nil {
				return nil, err
			}
			times = append(times, took)
		}
		return times, nil
	}
	if _, err := load(warmTime / 6); err != nil {
		return result{}, err
	}
	if err := ready(); err != nil {
		return result{}, err
	}
	begin := time.Now()
	times, err := load(j.Window)
	if err != nil {
		return result{}, err
	}
	return summary([][]time.Duration{times}, time.Since(begin))
}
