/* SPDX-License-Identifier: MIT */
/*
 * latency.c - what userfaultfd protection costs, measured wholly inside the subject.
 *
 * Claims measured (Documentation/admin-guide/mm/userfaultfd.rst, "Write Protect Notifications" and "Read-Write
 * Protection"; there is no figure for them in the kernel tree):
 *   fault_latency  one access to a protected page: resolved by the kernel (async) or by a handler thread (sync)
 *   protect_cost   one UFFDIO_RWPROTECT or UFFDIO_WRITEPROTECT over a whole range, and its undoing
 *   scan_cost      one PAGEMAP_SCAN over a range of which some pages are hot
 *
 * Between the two clock readings of a sample there is the measured thing and nothing else: samples go to memory that
 * is already faulted in, and one whole round is run unmeasured, so that on one vCPU under QEMU -icount the same
 * kernel always gives the same numbers.
 */
#define _GNU_SOURCE
#include "hist.h"
#include "loop.h"
#include "uapi.h"
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* The thread that resolves sync faults, each with one ioctl for its page. */
struct handler {
	const struct kst_loop *loop;
	pthread_t thread;
	int stop;
	atomic_ullong faults;
	atomic_int err;
};

static void *handle_faults(void *arg)
{
	struct handler *h = arg;
	const struct kst_loop *l = h->loop;
	struct pollfd fds[] = { { .fd = l->track.uffd, .events = POLLIN }, { .fd = h->stop, .events = POLLIN } };
	struct uffdio_range whole = { .start = (uintptr_t)l->mem.addr, .len = l->mem.len };
	struct uffd_msg msg;

	for (;;) {
		int err = 0;

		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			err = errno;
		if (fds[1].revents)
			return NULL;
		if (!err) {
			ssize_t got = read(l->track.uffd, &msg, sizeof(msg));

			if (got < 0 && errno == EAGAIN)
				continue;
			if (got != sizeof(msg) || msg.event != UFFD_EVENT_PAGEFAULT) {
				err = EPROTO;
			} else {
				uintptr_t page = msg.arg.pagefault.address & ~(l->mem.page_size - 1);

				atomic_fetch_add(&h->faults, 1);
				err = kst_track_protect(&l->track, (void *)page, l->mem.page_size, false);
			}
		}
		if (err) { /* free the accessing thread, which then reports the error */
			atomic_store(&h->err, err);
			ioctl(l->track.uffd, UFFDIO_UNREGISTER, &whole);
			return NULL;
		}
	}
}

static json_t *handler_start(struct handler *h, const struct kst_loop *l)
{
	int err;

	h->loop = l;
	h->stop = eventfd(0, EFD_CLOEXEC);
	if (h->stop < 0)
		return kst_errno(errno, "eventfd");
	err = pthread_create(&h->thread, NULL, handle_faults, h);
	if (!err)
		return NULL;
	close(h->stop);
	return kst_errno(err, "pthread_create");
}

static json_t *handler_end(struct handler *h)
{
	eventfd_write(h->stop, 1);
	pthread_join(h->thread, NULL);
	close(h->stop);
	return h->err ? kst_errno(h->err, "the fault handler") : NULL;
}

static json_t *run_fault_latency(struct kst_loop *l, bool async)
{
	struct handler handler = { 0 };
	uint64_t warm_up = 0;
	json_t *reply = kst_loop_track(l, async), *result;
	int err = 0;

	if (!reply && !async)
		reply = handler_start(&handler, l);
	for (uint64_t round = 0; !reply && !err && round <= l->rounds; round++) {
		err = kst_track_protect(&l->track, l->mem.addr, l->mem.len, true);
		if (!err && !handler.err)
			kst_loop_touch(l, l->hist);
		if (round == 0) { /* the first round only warms up */
			kst_hist_clear(l->hist);
			warm_up = handler.faults;
		}
	}
	if (!reply && !async)
		reply = handler_end(&handler);
	if (reply)
		return reply;
	if (err)
		return kst_errno(err, "protecting the range");
	result = kst_loop_reply("histogram", l);
	json_object_set_new(result, "faults", json_integer((json_int_t)(handler.faults - warm_up)));
	return kst_ok(result);
}

static json_t *op_fault_latency(struct kst_subject *s, const json_t *args)
{
	struct kst_loop l;
	bool async = false;
	json_t *reply = kst_loop_init(&l, s, args, true);

	if (!reply && !json_object_get(args, "access"))
		reply = kst_error("access: missing, must be read or write");
	if (!reply && kst_arg_bool_or(args, "async", false, &async, &reply))
		reply = run_fault_latency(&l, async);
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

static json_t *run_scan_cost(struct kst_loop *l, uint64_t hot, int pagemap, struct page_region *vec)
{
	uint64_t accessed = 0;
	size_t regions = 0;
	json_t *result;

	for (uint64_t round = 0; round <= l->rounds; round++) {
		int err = kst_track_protect(&l->track, l->mem.addr, l->mem.len, true);
		uint64_t begin;

		if (err)
			return kst_errno(err, "protecting the range");
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

	if (!reply && kst_arg_u64(args, "hot", &hot, &reply) && hot > l.mem.pages)
		reply = kst_error("hot: must be at most pages");
	if (!reply) {
		vec = calloc(l.mem.pages, sizeof(*vec));
		pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
		reply = !vec ? kst_errno(ENOMEM, "calloc") : pagemap < 0 ? kst_errno(errno, "/proc/self/pagemap") : NULL;
	}
	if (!reply)
		reply = kst_loop_track(&l, true);
	if (!reply)
		reply = run_scan_cost(&l, hot, pagemap, vec);
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
