// Command bench compares sallyport with others, on one machine and in one run,
// and prints a table of ratios with a bar, an aim and a verdict for each; it
// exits 1 when a bar is missed. It needs root, two processors, iproute2, curl,
// nginx, HAProxy and sslsplit; everything happens in network namespaces of its
// own. One processor is the proxies', the other one the clients' and the
// origins'.
//
// Machines are noisy and this one may be busy with other things: only ratios of
// neighbouring measurements count. Each round measures every system once, in an
// order that changes, and a ratio is taken within its round; the table gives the
// median over rounds and an interval that holds it with 95 % confidence.
//
// The same binary is the driver, the clients on both sides of the gate and a
// part of the origin: they are processes of their own, each on its processor.
package main
