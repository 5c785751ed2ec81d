/* SPDX-License-Identifier: MIT */
/* crowd.h - processes that are there and do nothing. */
#ifndef KST_CROWD_H
#define KST_CROWD_H

#include <sys/types.h>

#define KST_CROWD_MAX 320

struct kst_crowd {
	pid_t who[KST_CROWD_MAX];
	int count;
};

/* `stay` processes; `leave` came after them and are gone. They are at most KST_CROWD_MAX together. 0 or an errno. */
int kst_crowd_gather(struct kst_crowd *crowd, int stay, int leave);
void kst_crowd_end(struct kst_crowd *crowd);

/* The crowd of a whole boot, which stays: for `agent crowd`. */
int kst_crowd_of_boot(void);

#endif
