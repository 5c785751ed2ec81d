/* SPDX-License-Identifier: MIT */
/* loop.c - what the loops that measure a cost have in common: arguments, memory, histograms, a quiet CPU. */
#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

void kst_loop_touch(const struct kst_loop *l, struct kst_hist *hist)
{
	for (uint64_t i = 0; i < l->mem.pages; i++) {
		volatile uint64_t *word = (volatile uint64_t *)(l->mem.addr + i * l->mem.page_size);
		uint64_t begin = kst_ticks(l->tsc);

		if (l->write)
			*word = i + 1;
		else
			(void)*word;
		kst_hist_add(hist, kst_ticks(l->tsc) - begin);
	}
}

/* The same clock readings around an access that nothing traps, once a page. Ends the warm-up of code and pages. */
static void measure_overhead(const struct kst_loop *l)
{
	for (int pass = 0; pass < 2; pass++) {
		kst_hist_clear(l->overhead);
		kst_loop_touch(l, l->overhead);
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
	kst_mem_unmap(&l->mem);
	kst_hist_free(l->hist);
	kst_hist_free(l->second);
	kst_hist_free(l->overhead);
}

json_t *kst_loop_init(struct kst_loop *l, const struct kst_subject *s, const json_t *args, bool tracked)
{
	json_t *reply = NULL;
	const char *kind;
	uint64_t pages;

	*l = (struct kst_loop){ .track = { .uffd = -1, .lie = kst_control(s, "skip_protect"), .slow = kst_control(s, "slow_resolve") } };
	if (!kst_loop_size(args, &pages, &l->rounds, &reply) || !kst_arg_str(args, "kind", &kind, &reply) ||
	    (tracked && !kst_arg_either(args, "mode", "wp", "rwp", &l->track.rwp, &reply)) ||
	    !kst_arg_either(args, "clock", "mono", "tsc", &l->tsc, &reply))
		return reply;
#ifndef __x86_64__
	if (l->tsc)
		return kst_error("clock: tsc is x86 only, use mono");
#endif
	if (json_object_get(args, "access") && !kst_arg_either(args, "access", "read", "write", &l->write, &reply))
		return reply;
	reply = kst_mem_map(&l->mem, kind, pages);
	if (reply)
		return reply;
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
