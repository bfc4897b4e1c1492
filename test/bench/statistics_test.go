package main

import "testing"

func TestEstimate(t *testing.T) {
	// The ranks are those of tables of the sign test: n = 5 has no interval of
	// 95 %, 6 to 8 need the extremes, 9 may leave one out on each side.
	sequence := func(n int) (v []float64) {
		for i := range n {
			v = append(v, float64((i*7)%n+1)) // shuffled: 7 divides none of the n below
		}
		return v
	}
	for _, c := range []struct {
		n    int
		want estimate
	}{
		{1, estimate{1, 1, 1}},
		{5, estimate{1, 3, 5}},
		{6, estimate{1, 3.5, 6}},
		{8, estimate{1, 4.5, 8}},
		{9, estimate{2, 5, 8}},
		{11, estimate{2, 6, 10}},
		{12, estimate{3, 6.5, 10}},
		{20, estimate{6, 10.5, 15}},
	} {
		if got := estimateOf(sequence(c.n)); got != c.want {
			t.Errorf("n = %d: %v, want %v", c.n, got, c.want)
		}
	}
}

func TestRatios(t *testing.T) {
	got := ratios([]float64{2, 9, 5}, []float64{4, 3, 0})
	if len(got) != 2 || got[0] != 0.5 || got[1] != 3 {
		t.Errorf("ratios: %v", got)
	}
}
