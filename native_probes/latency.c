/* SPDX-License-Identifier: MIT */
/*
 * latency.c - what userfaultfd protection costs, measured wholly inside the subject.
 *
 * Claims measured (Documentation/admin-guide/mm/userfaultfd.rst, "Write Protect Notifications" and "Read-Write
 * Protection"; there is no figure for them in the kernel tree):
 *   fault_latency  one access that is a fault: resolved by the kernel (async) or by a handler thread (sync)
 *   protect_cost   one UFFDIO_RWPROTECT or UFFDIO_WRITEPROTECT over a whole range, and its undoing
 *   scan_cost      one PAGEMAP_SCAN over a range of which some pages are hot
 *
 * Between the two clock readings of a sample there is the measured thing and nothing else: samples go to memory that
 * is already faulted in, and one whole round is run unmeasured, so that on one vCPU under QEMU -icount the same
 * kernel always gives the same numbers.
 */
#define _GNU_SOURCE
#include "traps.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int serve(struct kst_handler *h)
{
	char *page;
	int err = kst_trap_read(h->loop, &page);

	if (err)
		return err;
	h->faults++;
	return h->trap->resolve(h->loop, page, true);
}

static json_t *run_fault_latency(struct kst_loop *l, const struct kst_trap *trap, bool async)
{
	struct kst_handler handler = { .loop = l, .trap = trap, .serve = serve };
	uint64_t warm_up = 0;
	json_t *reply = kst_trap_open(trap, l, async), *result;
	int err = 0;

	if (!reply && !async)
		reply = kst_handler_start(&handler);
	if (reply)
		return reply;
	for (uint64_t round = 0; !err && round <= l->rounds; round++) {
		err = trap->arm(l);
		if (!err && !handler.err)
			kst_loop_touch(l, l->hist);
		if (round == 0) { /* the first round only warms up */
			kst_hist_clear(l->hist);
			warm_up = handler.faults;
		}
	}
	if (!async)
		reply = kst_handler_end(&handler);
	if (reply)
		return reply;
	if (err)
		return kst_errno(err, "making the pages trap");
	result = kst_loop_reply("histogram", l);
	json_object_set_new(result, "faults", json_integer((json_int_t)(handler.faults - warm_up)));
	return kst_ok(result);
}

static json_t *op_fault_latency(struct kst_subject *s, const json_t *args)
{
	const struct kst_trap *trap = NULL;
	struct kst_loop l;
	bool async = false;
	json_t *reply = kst_loop_init(&l, s, args, false);

	if (!reply && !json_object_get(args, "access"))
		reply = kst_error("access: missing, must be read, write, gup or gup-write");
	if (!reply)
		trap = kst_trap_find(args, &reply);
	if (trap && kst_arg_bool_or(args, "async", false, &async, &reply))
		reply = run_fault_latency(&l, trap, async);
	kst_loop_free(&l);
	return reply;
}

/* One ioctl over the whole range, timed. */
static int timed_protect(const struct kst_loop *l, bool on, struct kst_hist *hist)
{
	uint64_t begin = kst_ticks(l->tsc);
	int err = kst_track_protect(&l->track, l->mem.addr, l->mem.len, on);

	kst_hist_add(hist, kst_ticks(l->tsc) - begin);
	return err;
}

static json_t *op_protect_cost(struct kst_subject *s, const json_t *args)
{
	struct kst_loop l;
	json_t *result, *reply = kst_loop_init(&l, s, args, true);
	int err = 0;

	if (!reply)
		reply = kst_loop_track(&l, false);
	for (uint64_t round = 0; !reply && !err && round <= l.rounds; round++) {
		err = kst_mem_remaps(&l.mem) ? kst_track_renew(&l.track, &l.mem) : 0; /* the last round has undone its huge pages */
		if (!err)
			err = timed_protect(&l, true, l.hist);
		if (!err)
			err = timed_protect(&l, false, l.second);
		if (round == 0) {
			kst_hist_clear(l.hist);
			kst_hist_clear(l.second);
		}
	}
	if (err)
		reply = kst_errno(err, "protecting or resolving the range");
	if (!reply) {
		result = kst_loop_reply("protect", &l);
		json_object_set_new(result, "resolve", kst_hist_json(l.second));
		reply = kst_ok(result);
	}
	kst_loop_free(&l);
	return reply;
}

static json_t *run_scan_cost(struct kst_loop *l, uint64_t hot, bool absent, int pagemap, struct page_region *vec)
{
	uint64_t accessed = 0;
	size_t regions = 0;
	json_t *result;

	for (uint64_t round = 0; round <= l->rounds; round++) {
		int err = absent ? kst_mem_drop(&l->mem) : l->mem.thp ? kst_track_renew(&l->track, &l->mem) : 0;
		uint64_t begin;

		if (!err && !absent)
			err = kst_track_protect(&l->track, l->mem.addr, l->mem.len, true);
		if (err)
			return kst_errno(err, "protecting or emptying the range");
		for (uint64_t i = 0; i < hot; i++) /* spread evenly */
			*(volatile uint64_t *)(l->mem.addr + i * l->mem.pages / hot * l->mem.page_size) = round;
		begin = kst_ticks(l->tsc);
		err = kst_track_scan(&l->track, &l->mem, pagemap, vec, &regions);
		kst_hist_add(l->hist, kst_ticks(l->tsc) - begin);
		if (err)
			return kst_errno(err, "PAGEMAP_SCAN");
		if (round == 0)
			kst_hist_clear(l->hist);
	}
	for (size_t i = 0; i < regions; i++)
		accessed += (vec[i].end - vec[i].start) / l->mem.page_size;
	result = kst_loop_reply("scan", l);
	json_object_set_new(result, "regions", json_integer((json_int_t)regions));
	json_object_set_new(result, "accessed", json_integer((json_int_t)accessed));
	return kst_ok(result);
}

static json_t *op_scan_cost(struct kst_subject *s, const json_t *args)
{
	struct kst_loop l;
	json_t *reply = kst_loop_init(&l, s, args, true);
	struct page_region *vec = NULL;
	int pagemap = -1;
	uint64_t hot = 0;
	bool absent = false;

	if (!reply && kst_arg_u64(args, "hot", &hot, &reply) && kst_arg_bool_or(args, "absent", false, &absent, &reply) &&
	    hot > (absent ? 0 : l.mem.pages))
		reply = kst_error(absent ? "hot: no page is hot where none is" : "hot: must be at most pages");
	if (!reply) {
		vec = calloc(l.mem.pages, sizeof(*vec));
		pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
		reply = !vec ? kst_errno(ENOMEM, "calloc") : pagemap < 0 ? kst_errno(errno, "/proc/self/pagemap") : NULL;
	}
	if (!reply)
		reply = kst_loop_track(&l, true);
	if (!reply)
		reply = run_scan_cost(&l, hot, absent, pagemap, vec);
	if (pagemap >= 0)
		close(pagemap);
	free(vec);
	kst_loop_free(&l);
	return reply;
}

const struct kst_op kst_latency_ops[] = {
	{ "fault_latency", op_fault_latency },
	{ "protect_cost", op_protect_cost },
	{ "scan_cost", op_scan_cost },
	{ NULL, NULL },
};
