package balance

const (
	// maxPeriod bounds a period of the round robin, in requests, and maxWork the
	// steps of making one. Weights that need more are rounded.
	maxPeriod = 1 << 16
	maxWork   = 1 << 22
)

// smooth gives one period of nginx's smooth weighted round robin: each time
// every weight is added to its target's current one, the largest is chosen, and
// the sum of all weights is taken from it. After as many requests as the sum of
// the weights, without their common divisor, it begins anew.
func smooth(weights []int) []uint16 {
	weights = reduced(weights)
	sum := 0
	for _, w := range weights {
		sum += w
	}
	current := make([]int, len(weights))
	order := make([]uint16, sum)
	for k := range order {
		best := 0
		for i, w := range weights {
			current[i] += w
			if current[i] > current[best] {
				best = i
			}
		}
		current[best] -= sum
		order[k] = uint16(best)
	}
	return order
}

// reduced gives the weights without their common divisor, rounded where their
// sum is beyond the bound. None becomes 0.
func reduced(weights []int) []int {
	divisor, sum := 0, 0
	for _, w := range weights {
		divisor = gcd(w, divisor)
		sum += w
	}
	if divisor == 0 {
		return nil
	}
	out := make([]int, len(weights))
	sum /= divisor
	most := max(min(maxPeriod, maxWork/len(weights)), len(weights))
	for i, w := range weights {
		out[i] = w / divisor
		if sum > most {
			out[i] = max(out[i]*most/sum, 1)
		}
	}
	return out
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
