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
#include "uapi.h"
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* What one of the three loops works with. */
struct loop {
	struct kst_mem mem;
	struct kst_track track;
	bool tsc, write, alone;
	uint64_t rounds;
	struct kst_hist *hist, *second, *overhead;
};

/* The thread that resolves sync faults, each with one ioctl for its page. */
struct handler {
	const struct loop *loop;
	pthread_t thread;
	int stop;
	atomic_ullong faults;
	atomic_int err;
};

static void *handle_faults(void *arg)
{
	struct handler *h = arg;
	const struct loop *l = h->loop;
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

static json_t *handler_start(struct handler *h, const struct loop *l)
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

/* Accesses each page once, in order, and records what each access took. */
static void touch_pages(const struct loop *l, struct kst_hist *hist)
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
static void measure_overhead(const struct loop *l)
{
	for (int pass = 0; pass < 2; pass++) {
		kst_hist_clear(l->overhead);
		touch_pages(l, l->overhead);
	}
}

/*
 * With the exact clock the loop runs at a real-time priority, which the handler thread inherits. As a normal task it
 * would share its CPU with whatever the boot left to do, in slices as long as many samples; and the two threads of
 * a sync fault would take turns as fairness has it, which remembers all that ran since boot: 2 % from boot to boot. So
 * a turn is always: the accessing thread blocks, the handler runs until it polls again, the accessing thread goes on.
 * Without the right to do so (EPERM) the loop runs as it is.
 */
static void run_alone(struct loop *l, bool on)
{
	struct sched_param param = { .sched_priority = on ? 1 : 0 };

	if (l->tsc && l->alone != on && !pthread_setschedparam(pthread_self(), on ? SCHED_FIFO : SCHED_OTHER, &param))
		l->alone = on;
}

static void loop_free(struct loop *l)
{
	run_alone(l, false);
	if (l->track.uffd >= 0)
		close(l->track.uffd);
	kst_mem_unmap(&l->mem);
	kst_hist_free(l->hist);
	kst_hist_free(l->second);
	kst_hist_free(l->overhead);
}

/* What the three loops have in common: arguments, memory, histograms, overhead. The reply that says why not, or NULL. */
static json_t *loop_init(struct loop *l, const struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL;
	const char *kind;
	uint64_t pages;

	*l = (struct loop){ .track = { .uffd = -1, .lie = kst_control(s, "skip_protect") } };
	if (!kst_loop_size(args, &pages, &l->rounds, &reply) || !kst_arg_str(args, "kind", &kind, &reply) ||
	    !kst_arg_either(args, "mode", "wp", "rwp", &l->track.rwp, &reply) ||
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

/* A userfaultfd for this loop's memory, registered. */
static json_t *loop_track(struct loop *l, bool async)
{
	json_t *reply = kst_track_open(&l->track, l->track.rwp, async, 0);
	int err = reply ? 0 : kst_track_register(&l->track, &l->mem, 0);

	return err ? kst_errno(err, "UFFDIO_REGISTER") : reply;
}

static json_t *hist_reply(const char *name, const struct loop *l)
{
	return json_pack("{s:o, s:o}", name, kst_hist_json(l->hist), "overhead", kst_hist_json(l->overhead));
}

static json_t *run_fault_latency(struct loop *l, bool async)
{
	struct handler handler = { 0 };
	uint64_t warm_up = 0;
	json_t *reply = loop_track(l, async), *result;
	int err = 0;

	if (!reply && !async)
		reply = handler_start(&handler, l);
	for (uint64_t round = 0; !reply && !err && round <= l->rounds; round++) {
		err = kst_track_protect(&l->track, l->mem.addr, l->mem.len, true);
		if (!err && !handler.err)
			touch_pages(l, l->hist);
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
	result = hist_reply("histogram", l);
	json_object_set_new(result, "faults", json_integer((json_int_t)(handler.faults - warm_up)));
	return kst_ok(result);
}

static json_t *op_fault_latency(struct kst_subject *s, const json_t *args)
{
	struct loop l;
	bool async = false;
	json_t *reply = loop_init(&l, s, args);

	if (!reply && !json_object_get(args, "access"))
		reply = kst_error("access: missing, must be read or write");
	if (!reply && kst_arg_bool_or(args, "async", false, &async, &reply))
		reply = run_fault_latency(&l, async);
	loop_free(&l);
	return reply;
}

/* One ioctl over the whole range, timed. */
static int timed_protect(const struct loop *l, bool on, struct kst_hist *hist)
{
	uint64_t begin = kst_ticks(l->tsc);
	int err = kst_track_protect(&l->track, l->mem.addr, l->mem.len, on);

	kst_hist_add(hist, kst_ticks(l->tsc) - begin);
	return err;
}

static json_t *op_protect_cost(struct kst_subject *s, const json_t *args)
{
	struct loop l;
	json_t *result, *reply = loop_init(&l, s, args);
	int err = 0;

	if (!reply)
		reply = loop_track(&l, false);
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
		result = hist_reply("protect", &l);
		json_object_set_new(result, "resolve", kst_hist_json(l.second));
		reply = kst_ok(result);
	}
	loop_free(&l);
	return reply;
}

static json_t *run_scan_cost(struct loop *l, uint64_t hot, int pagemap, struct page_region *vec)
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
	result = hist_reply("scan", l);
	json_object_set_new(result, "regions", json_integer((json_int_t)regions));
	json_object_set_new(result, "accessed", json_integer((json_int_t)accessed));
	return kst_ok(result);
}

static json_t *op_scan_cost(struct kst_subject *s, const json_t *args)
{
	struct loop l;
	json_t *reply = loop_init(&l, s, args);
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
		reply = loop_track(&l, true);
	if (!reply)
		reply = run_scan_cost(&l, hot, pagemap, vec);
	if (pagemap >= 0)
		close(pagemap);
	free(vec);
	loop_free(&l);
	return reply;
}

const struct kst_op kst_latency_ops[] = {
	{ "fault_latency", op_fault_latency },
	{ "protect_cost", op_protect_cost },
	{ "scan_cost", op_scan_cost },
	{ NULL, NULL },
};
