/* SPDX-License-Identifier: MIT */
/*
 * waterfall.c - where a sync fault spends what it costs, stage by stage.
 *
 * One clock in both threads: the accessing thread reads it before and after its access, the handler when its poll has
 * returned, when its read has, and when its ioctl has. Half of the rounds resolve with DONTWAKE and wake by a call
 * of its own, which tells what of the ioctl is the wake. Stages:
 *   trap     from the access to the handler's return from poll: the exception, the message, the wake of the handler
 *   read     the handler's read of the message
 *   ioctl    the handler's one ioctl, with the wake; resolve: the same with DONTWAKE
 *   back     from there until the access is done. With one CPU the handler first goes to sleep in its next poll
 * With several CPUs the access may be done before the ioctl has returned: the ioctl then ends with the access.
 */
#define _GNU_SOURCE
#include "traps.h"
#include "uapi.h"

#include <errno.h>
#include <sched.h>
#include <sys/ioctl.h>

enum { TRAP, READ, IOCTL, RESOLVE, BACK, TOTAL, STAGES };
static const char *const names[STAGES] = { "trap", "read", "ioctl", "resolve", "back", "total" };

struct fall {
	struct kst_loop loop;
	struct kst_handler handler;
	struct kst_hist *stages[STAGES];
	bool apart; /* resolve and wake by two calls */
	uint64_t polled, was_read, resolved; /* the handler's stamps of the last fault */
	_Atomic uint64_t begun, done;        /* faults */
};

static int serve(struct kst_handler *h)
{
	struct fall *f = h->arg;
	const struct kst_loop *l = h->loop;
	struct uffdio_range range = { .len = l->mem.page_size };
	char *page;
	int err;

	f->polled = kst_ticks(l->tsc);
	err = kst_trap_read(l, &page);
	f->was_read = kst_ticks(l->tsc);
	if (err)
		return err;
	f->begun++;
	h->faults++;
	err = h->trap->resolve(l, page, !f->apart);
	f->resolved = kst_ticks(l->tsc);
	range.start = (uintptr_t)page;
	if (!err && f->apart && ioctl(l->track.uffd, UFFDIO_WAKE, &range))
		err = errno;
	f->done++;
	return err;
}

static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* One access to each page; what is not trapped has no stages. */
static void touch(struct fall *f)
{
	const struct kst_loop *l = &f->loop;

	for (uint64_t i = 0; i < l->mem.pages && !f->handler.err; i++) {
		uint64_t before = f->begun, begin = kst_ticks(l->tsc), end, resolved;

		kst_loop_access(l, i);
		end = kst_ticks(l->tsc);
		if (f->begun == before)
			continue;
		while (f->done <= before && !f->handler.err) /* the handler is on its way out of the ioctl */
			sched_yield();
		resolved = earlier(f->resolved, end);
		kst_hist_add(f->stages[f->apart ? RESOLVE : IOCTL], resolved - f->was_read);
		if (f->apart)
			continue;
		kst_hist_add(f->stages[TRAP], f->polled - begin);
		kst_hist_add(f->stages[READ], f->was_read - f->polled);
		kst_hist_add(f->stages[BACK], end - resolved);
		kst_hist_add(f->stages[TOTAL], end - begin);
	}
}

static int run_rounds(struct fall *f)
{
	for (uint64_t round = 0; round <= 2 * f->loop.rounds + 1; round++) {
		int err = f->handler.trap->arm(&f->loop);

		if (err || f->handler.err)
			return err;
		f->apart = round % 2;
		touch(f);
		if (round > 1)
			continue;
		for (int i = 0; i < STAGES; i++) /* the first round of each kind only warms up */
			kst_hist_clear(f->stages[i]);
		f->handler.faults = 0;
	}
	return 0;
}

static json_t *run(struct fall *f)
{
	json_t *reply = kst_trap_open(f->handler.trap, &f->loop, false), *result;
	int err;

	if (!reply)
		reply = kst_handler_start(&f->handler);
	if (reply)
		return reply;
	err = run_rounds(f);
	reply = kst_handler_end(&f->handler);
	if (reply)
		return reply;
	if (err)
		return kst_errno(err, "making the pages trap");
	result = json_pack("{s:o, s:I}", "overhead", kst_hist_json(f->loop.overhead), "faults",
			   (json_int_t)f->handler.faults);
	for (int i = 0; i < STAGES; i++)
		json_object_set_new(result, names[i], kst_hist_json(f->stages[i]));
	return kst_ok(result);
}

static json_t *op_fault_waterfall(struct kst_subject *s, const json_t *args)
{
	struct fall f = { .handler = { .serve = serve } };
	json_t *reply = kst_loop_init(&f.loop, s, args, false);

	f.handler.loop = &f.loop;
	f.handler.arg = &f;
	for (int i = 0; i < STAGES && !reply; i++) {
		f.stages[i] = kst_hist_new();
		if (!f.stages[i])
			reply = kst_errno(ENOMEM, "mmap of a histogram");
	}
	if (!reply)
		f.handler.trap = kst_trap_find(args, &reply);
	if (!reply)
		reply = run(&f);
	for (int i = 0; i < STAGES; i++)
		kst_hist_free(f.stages[i]);
	kst_loop_free(&f.loop);
	return reply;
}

const struct kst_op kst_waterfall_ops[] = {
	{ "fault_waterfall", op_fault_waterfall },
	{ NULL, NULL },
};
