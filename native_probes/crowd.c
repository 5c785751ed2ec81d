/* SPDX-License-Identifier: MIT */
/*
 * crowd.c - what is there and does nothing, so that a process's start and end cost the same on each kernel and machine.
 *
 * Two things that they cost depend on what was there before:
 * - Where the kernel's allocator of per-CPU memory finds room for the counters of the new mm (mm_init(), kernel/fork.c;
 *   pcpu_alloc_area(), mm/percpu.c): it looks at every gap that the boot left. So users fill those, to the last four
 *   bytes: each has a counter that long (alloc_uid(), kernel/user.c), and is there for as long as a file that it opened.
 *   What follows has its room behind them.
 * - Whether the new number is the first in its node of the tree of numbers (alloc_pid(), lib/radix-tree.c). The last who
 *   stays has one early in a node, and those that follow are in the same. How many they are is always the same, since
 *   the tree of who maps the program costs more or less by that: processes that do not stay use up the numbers before.
 */
#define _GNU_SOURCE
#include "crowd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SOMEBODY 1000000 /* from here on nobody else is such a user */
#define NODE 64		 /* slots of a node: 1 << XA_CHUNK_SHIFT */

#define USERS 8192	/* 32 KiB of gaps */
#define USERS_MAX 12288 /* ... and four pages */

/* It ends with us. */
static pid_t start_one(void)
{
	pid_t we = getpid(), pid = fork();

	if (pid == 0) {
		/* We may have ended before it asked to be told. */
		if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != we)
			_exit(1);
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
		pid = start_one();
		err = pid < 0 ? errno : end_one(pid);
	}
	return err;
}

static int add(struct kst_crowd *crowd)
{
	pid_t pid = start_one();

	if (pid < 0)
		return errno;
	crowd->who[crowd->count++] = pid;
	return 0;
}

int kst_crowd_gather(struct kst_crowd *crowd, int stay, int leave)
{
	int err = fill_node();

	*crowd = (struct kst_crowd){ .count = 0 };
	while (!err && crowd->count < stay + leave)
		err = add(crowd);
	while (!err && crowd->count > stay)
		err = end_one(crowd->who[--crowd->count]);
	return err;
}

void kst_crowd_end(struct kst_crowd *crowd)
{
	while (crowd->count > 0)
		end_one(crowd->who[--crowd->count]);
}

static int open_as(uid_t user)
{
	return setresuid(user, (uid_t)-1, (uid_t)-1) || open("/dev/null", O_RDONLY) < 0 ? errno : 0;
}

/* KiB that the per-CPU memory has, once the kernel has had the time to add a page; -1: not told. */
static long per_cpu_memory(void)
{
	const struct timespec moment = { .tv_nsec = 1000000 };
	char line[128];
	long size = -1;
	FILE *file;

	nanosleep(&moment, NULL);
	file = fopen("/proc/meminfo", "re");
	while (file && size < 0 && fgets(line, sizeof(line), file))
		sscanf(line, "Percpu: %ld kB", &size);
	if (file)
		fclose(file);
	return size;
}

/*
 * A file of each user. Only root may be them all, and a guest's probe is. The last is the first to take from a page,
 * which is when the kernel adds another (pcpu_balance_populated()): what follows begins at the same place of a page,
 * the part of the memory that the allocator keeps its hints of.
 */
static int open_as_users(void)
{
	struct rlimit files = { USERS_MAX + 64, USERS_MAX + 64 };
	int err = setrlimit(RLIMIT_NOFILE, &files) ? errno : 0;
	uid_t user = 0;
	long size;

	while (!err && user < USERS)
		err = open_as(SOMEBODY + user++);
	size = per_cpu_memory();
	while (!err && user < USERS_MAX && per_cpu_memory() == size)
		err = open_as(SOMEBODY + user++);
	return err ? err : user < USERS_MAX ? 0 : ENOSPC;
}

int kst_crowd_of_boot(void)
{
	int done[2], err = 0;

	if (pipe(done))
		return errno;
	switch (fork()) {
	case -1:
		err = errno;
		break;
	case 0:
		close(done[0]);
		err = open_as_users();
		if (write(done[1], &err, sizeof(err)) != sizeof(err) || err)
			_exit(1);
		close(done[1]);
		for (;;)
			pause();
	default:
		if (read(done[0], &err, sizeof(err)) != sizeof(err))
			err = EPROTO;
	}
	close(done[0]);
	close(done[1]);
	return err;
}
