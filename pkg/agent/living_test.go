package agent

import (
	"testing"

	"sallyport/pkg/keeper/protocol"
)

// TestLiving: a workload stays on the metrics page while something runs in it,
// and for good where it has an entry.
func TestLiving(t *testing.T) {
	s, err := parse(&protocol.Configuration{Sources: []protocol.Source{{Name: "f", Data: []byte(
		"workloads: { github: {}, units: { match: { unit: '*.service' }, name: 'unit-{unit}' } }\n")}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{}
	w.config.Store(s)
	lives := w.living([]string{"curl", "node"})
	for name, want := range map[string]bool{"curl": true, "node": true, "github": true, "unit-x.service": true, "python3": false, "units": false, "": false} {
		if lives(name) != want {
			t.Errorf("%q lives: %v, want %v", name, lives(name), want)
		}
	}
}
