/* SPDX-License-Identifier: MIT */
/* hints.h - pages that NUMA balancing takes away, to hear who accesses them. */
#ifndef KST_HINTS_H
#define KST_HINTS_H

#include <stdint.h>

#define KST_HINT_SETTINGS 3

struct kst_hints {
	char was[KST_HINT_SETTINGS][32]; /* the settings before; empty: not changed */
};

/* From here on the scheduler scans each task's memory as soon as it can. 0; or an errno, and *which is the file. */
int kst_hints_begin(struct kst_hints *hints, const char **which);
void kst_hints_end(const struct kst_hints *hints);

/* A counter of /proc/vmstat; 0 if there is none. */
uint64_t kst_vmstat(const char *name);

#endif
