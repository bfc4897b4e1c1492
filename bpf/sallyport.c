//go:build ignore

/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * The kernel side of sallyport: one object, so that the programs share their maps
 * and are replaced together. Each header holds one subject.
 */
#include "helpers.h"
#include "types.h"

#include "maps.h"

#include "sock.h"
#include "group.h"
#include "connect.h"
#include "udp.h"
#include "peername.h"
#include "foreign.h"
#include "sockops.h"
#include "egress.h"

/* Types that only the daemon reads must be mentioned to be described in BTF. */
const struct sp_event *event_type __attribute__((unused));

char licence_of_programs[] SEC("license") = "Dual BSD/GPL";
