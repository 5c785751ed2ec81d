/* SPDX-License-Identifier: MIT */
/*
 * evict.c - the operation `evict`: eviction of cold pages against racing writers.
 *
 * Claim: the "VMM Working Set Tracking Workflow" of Documentation/admin-guide/mm/userfaultfd.rst loses no write, leaves
 * no thread asleep and evicts no page that was accessed since it was protected. evict_rounds.c is that workflow,
 * evict_threads.c what it races; here are the arguments, the memory and the outcome.
 *
 * Time: timeout_ms (default 60000) bounds the whole operation. The rounds must be done in half of it, else the answer
 * is an error; a thread that is waited for a quarter of it is asleep.
 */
#define _GNU_SOURCE
#include "evict.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static const char *const variants[] = { "documented", "scan_before_sync", "no_wake", "stay_async", "skip_protect" };

static json_t *setup(struct evict *e)
{
	bool async = e->rwp || e->variant == STAY_ASYNC;
	size_t threads = e->writers + 1;
	pthread_condattr_t attr;
	json_t *reply;
	int err;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&e->changed, &attr);
	pthread_condattr_destroy(&attr);
	reply = kst_mem_map(&e->guest, "shmem", e->pages);
	if (reply)
		return reply;
	e->io = mmap(NULL, e->guest.len, PROT_READ | PROT_WRITE, MAP_SHARED, e->guest.fd, 0);
	e->storage = mmap(NULL, e->guest.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	e->page = calloc(e->pages, sizeof(*e->page));
	e->vec = calloc(e->pages, sizeof(struct page_region));
	e->writer = calloc(threads, sizeof(*e->writer));
	e->expected = calloc(threads * e->pages, sizeof(*e->expected));
	if (e->io == MAP_FAILED || e->storage == MAP_FAILED || !e->page || !e->vec || !e->writer || !e->expected)
		return kst_errno(ENOMEM, "memory of the eviction loop");
	for (uint64_t p = 0; p < e->pages; p++)
		kst_evict_stamp(e, p);
	for (size_t i = 0; i < threads; i++)
		e->writer[i].expected = e->expected + i * e->pages;
	e->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	e->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (e->pagemap < 0 || e->stop_fd < 0)
		return kst_errno(errno, e->pagemap < 0 ? "/proc/self/pagemap" : "eventfd");
	reply = kst_track_open(&e->track, e->rwp, async, UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_THREAD_ID);
	if (reply)
		return reply;
	err = kst_track_register(&e->track, &e->guest, UFFDIO_REGISTER_MODE_MISSING);
	return err ? kst_errno(err, "UFFDIO_REGISTER") : NULL;
}

static void teardown(struct evict *e)
{
	int fds[] = { e->pagemap, e->stop_fd, e->track.uffd };

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (e->io && e->io != MAP_FAILED)
		munmap(e->io, e->guest.len);
	if (e->storage && e->storage != MAP_FAILED)
		munmap(e->storage, e->guest.len);
	kst_mem_unmap(&e->guest);
	free(e->page);
	free(e->vec);
	free(e->writer);
	free(e->expected);
	pthread_mutex_destroy(&e->lock);
	pthread_cond_destroy(&e->changed);
	free(e);
}

static json_t *outcome(const struct evict *e)
{
	uint64_t reads = 0, writes = 0, lost = 0;

	if (e->err)
		return kst_errno(e->err, e->err_what);
	for (unsigned int i = 0; i <= e->writers; i++) {
		reads += e->writer[i].reads;
		writes += e->writer[i].writes;
		lost += e->writer[i].lost;
	}
	return kst_ok(json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:s}", "rounds",
				(json_int_t)e->round, "writes", (json_int_t)writes, "reads", (json_int_t)reads, "evicted",
				(json_int_t)e->evicted, "fetched", (json_int_t)e->fetched, "faults", (json_int_t)e->faults,
				"lost_writes", (json_int_t)lost, "first_lost", e->first_lost, "damaged",
				(json_int_t)e->damaged, "hot_evicted", (json_int_t)e->hot_evicted, "ambushes_trapped",
				(json_int_t)e->ambushes_trapped, "asleep", (json_int_t)e->asleep, "awaited", e->awaited));
}

/* NULL when the arguments are good. */
static json_t *parse(struct evict *e, const struct kst_subject *s, const json_t *args)
{
	uint64_t writers;
	const char *name;
	json_t *reply = NULL;

	e->drop_write = kst_control(s, "drop_write");
	e->corrupt_evicted = kst_control(s, "corrupt_evicted");
	e->track = (struct kst_track){ .uffd = -1, .lie = kst_control(s, "skip_protect") };
	if (!kst_loop_size(args, &e->pages, &e->rounds, &reply) || !kst_arg_u64(args, "writers", &writers, &reply) ||
	    !kst_arg_u64(args, "seed", &e->seed, &reply) || !kst_arg_str(args, "variant", &name, &reply) ||
	    !kst_arg_either(args, "mode", "wp", "rwp", &e->rwp, &reply) ||
	    !kst_arg_u64_or(args, "timeout_ms", 60000, &e->timeout_ms, &reply))
		return reply;
	if (e->pages < 2 * ROLES)
		return kst_error("pages: eviction needs at least %d", 2 * ROLES);
	if (writers < 1 || writers > 16)
		return kst_error("writers: must be 1 to 16");
	if (e->timeout_ms < 1000 || e->timeout_ms > 3600000)
		return kst_error("timeout_ms: must be 1000 to 3600000");
	e->writers = (unsigned int)writers;
	for (unsigned int i = 0; i < sizeof(variants) / sizeof(variants[0]); i++)
		if (!strcmp(name, variants[i])) {
			e->variant = i;
			if (i == SCAN_BEFORE_SYNC && !e->rwp)
				return kst_error("variant: wp has no sync mode to switch to, so no scan_before_sync");
			return NULL;
		}
	return kst_error("variant: must be documented, scan_before_sync, no_wake, stay_async or skip_protect");
}

static json_t *op_evict(struct kst_subject *s, const json_t *args)
{
	struct evict *e = calloc(1, sizeof(*e));
	json_t *reply;
	int err;

	if (!e)
		return kst_errno(ENOMEM, "calloc");
	e->pagemap = e->stop_fd = -1;
	pthread_mutex_init(&e->lock, NULL);
	reply = parse(e, s, args);
	if (!reply)
		reply = setup(e);
	if (!reply) {
		err = kst_evict_start(e);
		reply = err ? kst_errno(err, "pthread_create") : kst_evict_run(e);
		if (!kst_evict_end(e)) /* a thread still uses all this; the subject that holds it is not meant to last */
			return reply ? reply : outcome(e);
		if (!reply)
			reply = outcome(e);
	}
	teardown(e);
	return reply;
}

const struct kst_op kst_evict_ops[] = { { "evict", op_evict }, { NULL, NULL } };
