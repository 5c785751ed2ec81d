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
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#define TURNS 200              /* each some ticks long */
#define TURN_TICKS 10000000ULL /* instructions: nanoseconds of a guest whose instructions are counted */

static json_t *open_numa(struct work *w)
{
	const char *which;

	if (!w->loop.tsc)
		return kst_errno(EOPNOTSUPP, "NUMA hints: made only where instructions are counted");
	return kst_hints_begin(&w->hints, &which) ? kst_errno(EOPNOTSUPP, which) : NULL;
}

static void close_numa(struct work *w) { kst_hints_end(&w->hints); }

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
	uint64_t before = kst_vmstat("numa_pte_updates");

	for (int i = 0; i < TURNS; i++) {
		uint64_t begin = kst_ticks(l->tsc);

		while (kst_ticks(l->tsc) - begin < TURN_TICKS)
			kst_spin(10000);
		if (kst_vmstat("numa_pte_updates") - before >= l->mem.pages)
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
	before = kst_vmstat("numa_hint_faults");
	kst_loop_settle(l, UINT64_MAX);
	w->stamps[0] = kst_ticks(l->tsc);
	kst_mem_touch(&l->mem, write);
	w->stamps[1] = kst_ticks(l->tsc);
	_exit(kst_vmstat("numa_hint_faults") - before < l->mem.pages ? 3 : 0);
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
