package proxy

import "sallyport/pkg/exchange"

// What may be held of the bodies of refused requests while their end is waited
// for, in bytes: of all, and of one workload. Many may be open at a time in
// HTTP/2, each as large as JSON-RPC gets. A refusal for which there is no room
// does not read its request: the client gets the plain form of the answer.
const (
	maxRefusedBodies         = 64 << 20
	maxRefusedBodiesWorkload = 16 << 20
)

// lend makes room for what the answer to a refused request reads of it, until
// the caller gives back what it got. Without room the answer reads nothing.
func (k *call) lend(r *exchange.Refusal) (n int64) {
	n = r.Reads(&k.x.Request)
	if n == 0 {
		return 0
	}
	if !reserve(&k.c.share.refusedBodies, &k.c.p.refusedBodies, n, maxRefusedBodiesWorkload, maxRefusedBodies) {
		r.Blind = true
		return 0
	}
	return n
}

func (k *call) giveBack(n int64) {
	release(&k.c.share.refusedBodies, &k.c.p.refusedBodies, n)
}
