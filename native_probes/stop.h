/* SPDX-License-Identifier: MIT */
/* stop.h - the agent's requests and replies where the whole machine stops for them. */
#ifndef KST_STOP_H
#define KST_STOP_H

#include <stddef.h>

/* Tells `reply` (at first NULL); gives the next request, which holds until the next call. NULL: no memory, or no host. */
const char *kst_stop_exchange(const char *reply, size_t *len);

#endif
