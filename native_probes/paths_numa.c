/* SPDX-License-Identifier: MIT */
/*
 * paths_numa.c - one access to each page that NUMA balancing has taken away for a hint. Source: kernel/sched/fair.c
 * (task_numa_work), mm/memory.c (do_numa_page).
 *
 * Only the scheduler's own scan makes hints, from the timer tick of a task that is not real-time. So a child with memory
 * of its own, scanned as soon as can be, spins until its pages were scanned; then it is real-time, and no scan follows.
 * It has a second thread, since a page of a process with one is not taken away on the node that it runs on: one node does.
 */
#define _GNU_SOURCE
#include "paths.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TURNS 200              /* each some ticks long */
#define TURN_TICKS 10000000ULL /* instructions: nanoseconds of a guest whose instructions are counted */

static const char *const settings[KST_NUMA_SETTINGS] = {
	"/proc/sys/kernel/numa_balancing",
	"/sys/kernel/debug/sched/numa_balancing/scan_delay_ms",
	"/sys/kernel/debug/sched/numa_balancing/scan_period_min_ms",
};

/* Writes "1" to a setting, after its old value went to `old`. */
static int set(const char *path, char *old)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, old, KST_NUMA_TEXT - 1);

	if (fd >= 0)
		close(fd);
	if (got < 1)
		return errno ? errno : EIO;
	old[got] = '\0';
	return kst_write_text(path, "1");
}

static json_t *open_numa(struct work *w)
{
	if (!w->loop.tsc)
		return kst_errno(EOPNOTSUPP, "NUMA hints: made only where instructions are counted");
	for (int i = 0; i < KST_NUMA_SETTINGS; i++)
		if (set(settings[i], w->numa[i]))
			return kst_errno(EOPNOTSUPP, settings[i]);
	return NULL;
}

static void close_numa(struct work *w)
{
	for (int i = 0; i < KST_NUMA_SETTINGS; i++)
		if (*w->numa[i])
			kst_write_text(settings[i], w->numa[i]);
}

/* A counter of /proc/vmstat; 0 if there is none. */
static uint64_t vmstat(const char *name)
{
	char line[128];
	size_t length = strlen(name);
	uint64_t value = 0;
	FILE *file = fopen("/proc/vmstat", "re");

	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, length) && line[length] == ' ')
			value = strtoull(line + length, NULL, 10);
	if (file)
		fclose(file);
	return value;
}

static void *sleep_for_ever(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static bool real_time(bool on)
{
	struct sched_param param = { .sched_priority = on };

	return !sched_setscheduler(0, on ? SCHED_FIFO : SCHED_OTHER, &param);
}

/* Until as many entries were taken away as the range has, which the scan of a process so small does in one go. */
static bool await_scan(const struct kst_loop *l)
{
	uint64_t before = vmstat("numa_pte_updates");

	for (int i = 0; i < TURNS; i++) {
		uint64_t begin = kst_ticks(l->tsc);

		while (kst_ticks(l->tsc) - begin < TURN_TICKS)
			kst_spin(10000);
		if (vmstat("numa_pte_updates") - before >= l->mem.pages)
			return true;
	}
	return false;
}

static void child(struct work *w, bool write)
{
	const struct kst_loop *l = &w->loop;
	pthread_t second;
	uint64_t before;

	if (kst_mem_map_at(&l->mem, l->mem.addr) || pthread_create(&second, NULL, sleep_for_ever, NULL) || !real_time(false))
		_exit(1);
	kst_mem_touch(&l->mem, true);
	if (!await_scan(l) || !real_time(true))
		_exit(2);
	kst_path_touch_stamps(w);
	before = vmstat("numa_hint_faults");
	kst_loop_settle(l, UINT64_MAX);
	w->stamps[0] = kst_ticks(l->tsc);
	kst_mem_touch(&l->mem, write);
	w->stamps[1] = kst_ticks(l->tsc);
	_exit(vmstat("numa_hint_faults") - before < l->mem.pages ? 3 : 0);
}

static int run_hint(struct work *w, bool write)
{
	int status;

	w->child = fork();
	if (w->child == 0)
		child(w, write);
	if (w->child < 0 || waitpid(w->child, &status, 0) != w->child)
		return errno;
	return status ? ECHILD : 0;
}

static int run_hint_read(struct work *w) { return run_hint(w, false); }
static int run_hint_write(struct work *w) { return run_hint(w, true); }

const struct path kst_numa_paths[] = {
	{ .name = "numa-hint", .open = open_numa, .run = run_hint_read, .close = close_numa, .bare = true },
	{ .name = "numa-hint-write", .open = open_numa, .run = run_hint_write, .close = close_numa, .bare = true },
	{ .name = NULL },
};
