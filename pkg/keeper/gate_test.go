package keeper

import (
	"net"
	"testing"

	"go.uber.org/zap"
)

// TestUnlistenWithoutPrograms: the listeners open while the programs load; where
// those cannot be loaded, giving up must still close them and say why.
func TestUnlistenWithoutPrograms(t *testing.T) {
	ls, err := openListeners(nil, nil, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{ls: ls, log: zap.NewNop()}
	tcp, _ := ls.addresses()
	c, err := net.Dial("tcp", tcp[0].String())
	if err != nil {
		t.Fatalf("nobody listens: %v", err)
	}
	c.Close()
	g.unlisten()
	if g.listening() {
		t.Error("the listeners stay")
	}
	if c, err := net.Dial("tcp", tcp[0].String()); err == nil {
		c.Close()
		t.Error("a listener is open")
	}
}
