package protocol

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport/pkg/datapath"
)

func TestEnded(t *testing.T) {
	f := datapath.FlowStats{ID: 1<<63 + 1, Totals: datapath.Totals{
		BytesSent: 1<<64 - 1, BytesReceived: 3, SegmentsOut: 4, SegmentsIn: 5, Retransmits: 6, RTT: 7 * time.Millisecond,
	}}
	b, err := json.Marshal(EndedOf(&f))
	if err != nil {
		t.Fatal(err)
	}
	var e Ended
	if err := json.Unmarshal(b, &e); err != nil {
		t.Fatal(err)
	}
	if e.Flow() != f.ID {
		t.Errorf("flow %d, want %d", e.Flow(), f.ID)
	}
	if diff := cmp.Diff(f.Totals, e.Totals()); diff != "" {
		t.Error(diff)
	}
}
