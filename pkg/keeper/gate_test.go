package keeper

import (
	"testing"

	"go.uber.org/zap"
)

// TestUnlistenWithoutPrograms: the listeners open while the programs load; where
// those cannot be loaded, giving up must still close them and say why.
func TestUnlistenWithoutPrograms(t *testing.T) {
	ls, err := openListeners(nil, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{ls: ls, log: zap.NewNop()}
	g.unlisten()
	if g.listening() {
		t.Error("the listeners stay")
	}
	if _, err := ls.tcp[0].Accept(); err == nil {
		t.Error("a listener is open")
	}
}
