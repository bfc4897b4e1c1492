// Command bench compares sallyport with doing nothing and with nginx as a
// TLS-to-TLS reverse proxy, on one machine and in one run. It needs root, two
// processors, iproute2 and nginx; everything happens in network namespaces of
// its own. One processor is the proxy's, the other one the client's and the
// origin's.
//
// Machines are noisy and this one may be busy with other things: only ratios of
// neighbouring measurements count. Each round measures every system once, in an
// order that changes, and a ratio is taken within its round; the table gives the
// median over rounds and an interval that holds it with 95 % confidence.
package main
