package port

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
)

// TestHold: connecting is refused, nobody else can listen, and then the place does.
func TestHold(t *testing.T) {
	for _, second := range []string{"127.0.0.2", "::1"} {
		t.Run(second, func(t *testing.T) { testHold(t, second) })
	}
}

func testHold(t *testing.T, second string) {
	if l, err := net.Listen("tcp", net.JoinHostPort(second, "0")); err != nil {
		t.Skip(err)
	} else {
		l.Close()
	}
	places := Hold(t, "127.0.0.1", second)
	if places[0].Port() == 0 || places[0].Port() != places[1].Port() || places[1].Addr().String() != second {
		t.Fatalf("%v", places)
	}
	for _, p := range places {
		if c, err := net.Dial("tcp", p.String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%v, %v", c, err)
		}
		if l, err := net.Listen("tcp", p.String()); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%v, %v", l, err)
		}
	}
	l := places[1].Listen()
	defer l.Close()
	if l.Addr().String() != places[1].String() {
		t.Errorf("listens at %s", l.Addr())
	}
	c, err := net.Dial("tcp", places[1].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", places[0].String()); err == nil {
		c.Close()
		t.Error("the other one listens too")
	}
}

func TestFree(t *testing.T) {
	seen := map[uint16]bool{}
	for range 20 {
		seen[Free(t)] = true
	}
	// Each is the test's until that ends.
	if len(seen) != 20 || seen[0] {
		t.Errorf("%v", seen)
	}
	for number := range seen {
		if claim(t, number) == nil {
			t.Errorf("%d is given twice", number)
		}
	}
}
