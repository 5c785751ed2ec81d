/* SPDX-License-Identifier: MIT */
/*
 * hints.c - NUMA hints: pages that the scheduler's scan takes away, to hear who accesses them. Source:
 * kernel/sched/fair.c (task_tick_numa, task_numa_work), mm/mempolicy.c (change_prot_numa).
 */
#define _GNU_SOURCE
#include "hints.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "own.h"
#include "subject.h"
#include "workload.h"

#define SPIN 200000 /* turns between two looks at the counter, which cost more */

static const char *const settings[KST_HINT_SETTINGS] = {
	"/proc/sys/kernel/numa_balancing",
	"/sys/kernel/debug/sched/numa_balancing/scan_delay_ms",
	"/sys/kernel/debug/sched/numa_balancing/scan_period_min_ms",
};

/* Writes "1" to a setting, after its old value went to `was`. */
static int set(const char *path, char *was, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), err = fd < 0 ? errno : 0;
	ssize_t got = fd < 0 ? -1 : read(fd, was, size - 1);

	if (fd >= 0)
		close(fd);
	if (got < 1)
		return err ? err : EIO;
	was[got] = '\0';
	return kst_write_text(path, "1");
}

int kst_hints_begin(struct kst_hints *hints, const char **which)
{
	*hints = (struct kst_hints){0};
	/* The first one last: it starts the scans. */
	for (int i = KST_HINT_SETTINGS - 1; i >= 0; i--) {
		int err = set(settings[i], hints->was[i], sizeof(hints->was[i]));

		if (err) {
			*which = settings[i];
			kst_hints_end(hints);
			return err;
		}
	}
	return 0;
}

void kst_hints_end(const struct kst_hints *hints)
{
	for (int i = 0; i < KST_HINT_SETTINGS; i++)
		if (*hints->was[i])
			kst_write_text(settings[i], hints->was[i]);
}

uint64_t kst_vmstat(const char *name)
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

struct scan {
	uint64_t end_ns; /* when to give up */
	uint64_t hinted; /* entries taken away */
};

/*
 * A thread that is there since the settings were made, and runs: the scan of its process's memory is its work. It has a
 * page that no child has: what is shared with one is left alone (folio_can_map_prot_numa(), mm/mempolicy.c), and a scan
 * that finds nothing else would not be seen to have been.
 */
static void *run(void *arg)
{
	struct scan *scan = arg;
	void *fresh = kst_own_memory(4096);
	uint64_t before = kst_vmstat("numa_pte_updates");

	do {
		kst_spin(SPIN);
		scan->hinted = kst_vmstat("numa_pte_updates") - before;
	} while (!scan->hinted && kst_now_ns() < scan->end_ns);
	if (fresh != MAP_FAILED)
		munmap(fresh, 4096);
	return NULL;
}

static json_t *op_numa_hints(struct kst_subject *s, const json_t *args)
{
	uint64_t timeout_ms;
	const char *which;
	struct kst_hints hints;
	struct scan scan = {0};
	json_t *reply = NULL;
	pthread_t thread;
	int err;

	(void)s;
	if (!kst_arg_range_or(args, "timeout_ms", 2000, 1, 60000, &timeout_ms, &reply))
		return reply;
	err = kst_hints_begin(&hints, &which);
	if (err)
		return kst_errno(err, which);
	scan.end_ns = kst_now_ns() + timeout_ms * 1000000;
	err = pthread_create(&thread, NULL, run, &scan);
	if (!err)
		pthread_join(thread, NULL);
	kst_hints_end(&hints);
	if (err)
		return kst_errno(err, "pthread_create");
	if (!scan.hinted)
		return kst_errno(ETIMEDOUT, "NUMA balancing took no page away");
	return kst_ok(json_pack("{s:I}", "value", (json_int_t)scan.hinted));
}

const struct kst_op kst_hint_ops[] = {
	{ "numa_hints", op_numa_hints },
	{ NULL, NULL },
};
