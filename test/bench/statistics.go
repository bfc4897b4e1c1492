package main

import (
	"math"
	"slices"
)

// An estimate is a median with an interval that holds the true one.
type estimate struct{ low, median, high float64 }

// estimateOf takes the interval from order statistics: the narrowest pair that
// holds the median of any distribution with at least 95 % confidence; with
// fewer than six values all there is.
func estimateOf(values []float64) estimate {
	if len(values) == 0 {
		return estimate{math.NaN(), math.NaN(), math.NaN()}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	median := v[n/2]
	if n%2 == 0 {
		median = (v[n/2-1] + v[n/2]) / 2
	}
	// Below the k-th smallest value the median lies with the probability that
	// fewer than k of n throws of a coin come up heads.
	skip, tail, term := 0, 0.0, math.Pow(0.5, float64(n))
	for k := 0; k < n/2; k++ {
		tail += term
		if 2*tail > 0.05 {
			break
		}
		skip = k
		term *= float64(n-k) / float64(k+1)
	}
	return estimate{v[skip], median, v[n-1-skip]}
}

// ratios divides pairwise.
func ratios(a, b []float64) []float64 {
	out := make([]float64, 0, len(a))
	for i := range min(len(a), len(b)) {
		if b[i] != 0 {
			out = append(out, a[i]/b[i])
		}
	}
	return out
}

// differences subtracts pairwise.
func differences(a, b []float64) []float64 {
	out := make([]float64, 0, len(a))
	for i := range min(len(a), len(b)) {
		out = append(out, a[i]-b[i])
	}
	return out
}
