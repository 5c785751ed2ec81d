/* SPDX-License-Identifier: MIT */
/* crowd.h - who is there and does nothing. */
#ifndef KST_CROWD_H
#define KST_CROWD_H

#include <sys/types.h>

#define KST_CROWD_MAX 128

struct kst_crowd {
	pid_t who[KST_CROWD_MAX];
	int count;
};

/* `stay` processes; `leave` came after them and are gone. They are at most KST_CROWD_MAX together. 0 or an errno. */
int kst_crowd_gather(struct kst_crowd *crowd, int stay, int leave);
void kst_crowd_end(struct kst_crowd *crowd);

/* The users of a whole boot: a process that holds their files is left behind, for `agent crowd`. 0 or an errno. */
int kst_crowd_of_boot(void);

#endif
