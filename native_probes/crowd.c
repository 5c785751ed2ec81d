/* SPDX-License-Identifier: MIT */
/*
 * crowd.c - processes that are there and do nothing, so that a process's start and end cost the same in each boot.
 *
 * Two things that they cost depend on what was there before:
 * - Where the kernel's allocator of per-CPU memory finds room for the counters of the new mm (mm_init(), kernel/fork.c;
 *   pcpu_find_block_fit(), mm/percpu.c). Those who stay fill the gaps that were left; those who leave again have left
 *   room behind them, in one piece. The search begins at the first gap, however small: of the boot's crowd each is a user
 *   of its own, whose counter of four bytes (alloc_uid(), kernel/user.c) fills that.
 * - Whether the new number is the first in its node of the tree of numbers (alloc_pid(), lib/radix-tree.c). The last who
 *   stays has one early in a node, and those that follow are in the same. How many they are is the same in each boot, since
 *   the tree of who maps the program costs more or less by that: processes that do not stay use up the numbers before.
 */
#define _GNU_SOURCE
#include "crowd.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOMEBODY 1000000 /* from here on nobody else is such a user */
#define NODE 64		 /* slots of a node: 1 << XA_CHUNK_SHIFT */

/* With 512 who stay, lean's first chunk of per-CPU memory was full, and a fork cost 7 % more or not. */
#define BOOT_STAY 200 /* the last has the 8th number of its node */
#define BOOT_LEAVE 64

/* It ends with us; or, if it `outlives` us, is a user of its own. A row's are not: that made its forks 1 % apart. */
static pid_t start_one(bool outlives)
{
	pid_t pid = fork();

	if (pid == 0) {
		if (outlives ? setuid(SOMEBODY + (uid_t)getpid()) : prctl(PR_SET_PDEATHSIG, SIGKILL))
			_exit(1); /* only root may, and a guest's probe is */
		for (;;)
			pause();
	}
	return pid;
}

static int end_one(pid_t pid)
{
	kill(pid, SIGKILL);
	return waitpid(pid, NULL, 0) == pid ? 0 : errno;
}

/* The next process has the first number of a node, unless others start processes meanwhile. */
static int fill_node(void)
{
	pid_t pid = 0;
	int err = 0;

	for (int i = 0; !err && i < 2 * NODE && pid % NODE != NODE - 1; i++) {
		pid = start_one(false);
		err = pid < 0 ? errno : end_one(pid);
	}
	return err;
}

static int add(struct kst_crowd *crowd, bool outlives)
{
	pid_t pid = start_one(outlives);

	if (pid < 0)
		return errno;
	crowd->who[crowd->count++] = pid;
	return 0;
}

static int gather(struct kst_crowd *crowd, int stay, int leave, bool outlives)
{
	int err = fill_node();

	*crowd = (struct kst_crowd){ .count = 0 };
	while (!err && crowd->count < stay + leave)
		err = add(crowd, outlives);
	while (!err && crowd->count > stay)
		err = end_one(crowd->who[--crowd->count]);
	return err;
}

int kst_crowd_gather(struct kst_crowd *crowd, int stay, int leave) { return gather(crowd, stay, leave, false); }

void kst_crowd_end(struct kst_crowd *crowd)
{
	while (crowd->count > 0)
		end_one(crowd->who[--crowd->count]);
}

int kst_crowd_of_boot(void)
{
	struct kst_crowd crowd;

	return gather(&crowd, BOOT_STAY, BOOT_LEAVE, true);
}
