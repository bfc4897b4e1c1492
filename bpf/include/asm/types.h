/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * <linux/types.h> wants <asm/types.h>, which distributions keep in a directory
 * per architecture (/usr/include/x86_64-linux-gnu, …). BPF is one 64-bit machine
 * everywhere, so the three headers that <linux/bpf.h> needs are given here and
 * the object is the same wherever it is built.
 */
#include <asm-generic/int-ll64.h>
