/* SPDX-License-Identifier: MIT */
/* loop.c - what the loops that measure a cost have in common: arguments, memory, histograms, a priority. */
#define _GNU_SOURCE
#include "loop.h"
#include "own.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

static __attribute__((noinline)) void access_by_kernel(const struct kst_loop *l, char *page)
{
	struct iovec ours = { l->source, sizeof(uint64_t) }, there = { page, sizeof(uint64_t) };

	if (l->access == KST_GUP)
		process_vm_readv(getpid(), &ours, 1, &there, 1, 0);
	else
		process_vm_writev(getpid(), &ours, 1, &there, 1, 0);
}

/* What it takes to find out how is in the overhead, which is subtracted from paths that do not: as little as can be. */
void kst_loop_access(const struct kst_loop *l, uint64_t i)
{
	char *page = l->mem.addr + i * l->mem.page_size;

	if (l->access >= KST_GUP)
		access_by_kernel(l, page);
	else if (l->access == KST_WRITE)
		*(volatile uint64_t *)page = i + 1;
	else
		(void)*(volatile uint64_t *)page;
}

static void touch(const struct kst_loop *l, uint64_t pages, struct kst_hist *hist)
{
	for (uint64_t i = 0; i < pages; i++) {
		uint64_t begin = kst_ticks(l->tsc);

		kst_loop_access(l, i);
		kst_hist_add(hist, kst_ticks(l->tsc) - begin);
	}
}

void kst_loop_touch(const struct kst_loop *l, struct kst_hist *hist) { touch(l, l->mem.pages, hist); }

#define OVERHEAD_PAGES 1024

/* The same clock readings around an access that nothing traps, once a page. Ends the warm-up of code and pages. */
static void measure_overhead(const struct kst_loop *l)
{
	for (int pass = 0; pass < 2; pass++) {
		kst_hist_clear(l->overhead);
		touch(l, l->mem.pages < OVERHEAD_PAGES ? l->mem.pages : OVERHEAD_PAGES, l->overhead);
	}
}

/*
 * With the exact clock the loop runs at a real-time priority, which the handler thread inherits. As a normal task it
 * would share its CPU with whatever the boot left to do, in slices as long as many samples; and the two threads of
 * a sync fault would take turns as fairness has it, which remembers all that ran since boot: 2 % from boot to boot. So
 * a turn is always: the accessing thread blocks, the handler runs until it polls again, the accessing thread goes on.
 * Without the right to do so (EPERM) the loop runs as it is.
 */
static void run_alone(struct kst_loop *l, bool on)
{
	struct sched_param param = { .sched_priority = on ? 1 : 0 };

	if (l->tsc && l->alone != on && !pthread_setschedparam(pthread_self(), on ? SCHED_FIFO : SCHED_OTHER, &param))
		l->alone = on;
}

void kst_loop_free(struct kst_loop *l)
{
	run_alone(l, false);
	if (l->track.uffd >= 0)
		close(l->track.uffd);
	if (l->source != MAP_FAILED)
		munmap(l->source, l->mem.page_size);
	kst_mem_unmap(&l->mem);
	kst_hist_free(l->hist);
	kst_hist_free(l->second);
	kst_hist_free(l->overhead);
}

static json_t *access_of(struct kst_loop *l, const json_t *args)
{
	static const char *const names[] = {
		[KST_READ] = "read", [KST_WRITE] = "write", [KST_GUP] = "gup", [KST_GUP_WRITE] = "gup-write" };
	const char *name = "read";
	json_t *reply = NULL;

	if (!kst_arg_str_or(args, "access", "read", &name, &reply))
		return reply;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(names[i], name)) {
			l->access = i;
			return NULL;
		}
	}
	return kst_error("access: must be read, write, gup or gup-write");
}

#define SHMEM_THP "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

/* The word in brackets, of "always [never]"; empty if there is none. */
static void chosen(const char *path, char *word, size_t size)
{
	char text[256] = "", *begin, *end;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && (begin = strchr(text, '[')) && (end = strchr(begin, ']'))) {
		*end = '\0';
		snprintf(word, size, "%s", begin + 1);
	}
	if (fd >= 0)
		close(fd);
}

/* Where instructions are counted shared memory has no huge pages: they are switched on until the loop has its own. */
static json_t *map_memory(struct kst_loop *l, const char *kind, uint64_t pages)
{
	bool on = l->tsc && !strcmp(kind, "shmem_thp");
	char before[32] = "";
	json_t *reply;

	if (on) {
		chosen(SHMEM_THP, before, sizeof(before));
		kst_write_text(SHMEM_THP, "advise"); /* if that fails, the kernel gives no huge page, which is told */
	}
	reply = kst_mem_map(&l->mem, kind, pages);
	if (*before)
		kst_write_text(SHMEM_THP, before);
	return reply;
}

json_t *kst_loop_init(struct kst_loop *l, const struct kst_subject *s, const json_t *args, bool tracked)
{
	json_t *reply = NULL;
	const char *kind;
	uint64_t pages;

	*l = (struct kst_loop){
		.source = MAP_FAILED,
		.track = { .uffd = -1, .lie = kst_control(s, "skip_protect"), .slow = kst_control(s, "slow_resolve") },
	};
	if (!kst_loop_size(args, &pages, &l->rounds, &reply) || !kst_arg_str(args, "kind", &kind, &reply) ||
	    (tracked && !kst_arg_either(args, "mode", "wp", "rwp", &l->track.rwp, &reply)) ||
	    !kst_arg_either(args, "clock", "mono", "tsc", &l->tsc, &reply))
		return reply;
#ifndef __x86_64__
	if (l->tsc)
		return kst_error("clock: tsc is x86 only, use mono");
#endif
	reply = access_of(l, args);
	if (!reply)
		reply = map_memory(l, kind, pages);
	if (reply)
		return reply;
	l->source = kst_own_memory(l->mem.page_size);
	if (l->source == MAP_FAILED)
		return kst_errno(errno, "mmap");
	l->hist = kst_hist_new();
	l->second = kst_hist_new();
	l->overhead = kst_hist_new();
	if (!l->hist || !l->second || !l->overhead)
		return kst_errno(ENOMEM, "mmap of a histogram");
	run_alone(l, true);
	measure_overhead(l);
	return NULL;
}

json_t *kst_loop_track(struct kst_loop *l, bool async)
{
	json_t *reply = kst_track_open(&l->track, l->track.rwp, async, 0);
	int err = reply ? 0 : kst_track_register(&l->track, &l->mem, 0);

	return err ? kst_errno(err, "UFFDIO_REGISTER") : reply;
}

json_t *kst_loop_reply(const char *name, const struct kst_loop *l)
{
	return json_pack("{s:o, s:o}", name, kst_hist_json(l->hist), "overhead", kst_hist_json(l->overhead));
}
