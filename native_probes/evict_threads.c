/* SPDX-License-Identifier: MIT */
/*
 * evict_threads.c - what the evictor races: writers, the helper with its ambush, and the fault handler.
 *
 * A lost write is seen by its writer: each thread owns one counter in every page, and when a counter reads lower than
 * the thread's own memory of it, a write that had completed is gone.
 */
#define _GNU_SOURCE
#include "evict.h"
#include "uapi.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SWITCH_ACCESSES 65536 /* at most, while the evictor switches the mode: enough to overlap it */

static uint64_t pattern(const struct evict *e, uint64_t page, size_t word)
{
	uint64_t state = e->seed ^ page << 20 ^ word;

	return kst_random(&state);
}

void kst_evict_stamp(const struct evict *e, uint64_t page)
{
	uint64_t *words = (uint64_t *)(e->io + page * e->guest.page_size);

	for (size_t i = 0; i < e->guest.page_size / sizeof(*words); i++)
		words[i] = i <= e->writers ? 0 : pattern(e, page, i);
}

void kst_evict_failed(struct evict *e, int err, const char *what)
{
	if (!e->err) {
		e->err = err;
		e->err_what = what;
	}
	pthread_cond_broadcast(&e->changed);
}

static uint64_t *slot(const struct writer *w, uint64_t page)
{
	return (uint64_t *)(w->e->guest.addr + page * w->e->guest.page_size) + w->id;
}

/* Compares what a thread saw in its counter with what it must hold. */
static void check(struct writer *w, uint64_t page, uint64_t seen)
{
	struct evict *e = w->e;
	uint64_t expected = w->expected[page];

	if (seen == expected || atomic_load(&e->stop))
		return;
	w->lost += seen < expected ? expected - seen : 1;
	w->expected[page] = seen;
	pthread_mutex_lock(&e->lock);
	if (!e->first_lost[0])
		snprintf(e->first_lost, sizeof(e->first_lost), "round %u: page %llu: writer %u wrote %llu and reads %llu", e->round,
			 (unsigned long long)page, w->id, (unsigned long long)expected, (unsigned long long)seen);
	pthread_mutex_unlock(&e->lock);
}

static void write_once(struct writer *w, uint64_t page)
{
	/* one instruction both reads and writes: it traps as a write, and no reader's fault opens the page before it */
	check(w, page, __atomic_fetch_add(slot(w, page), 1, __ATOMIC_RELAXED));
	w->expected[page]++;
	w->writes++;
}

static void access_once(struct writer *w, uint64_t page)
{
	if (kst_random(&w->random) % 4) {
		write_once(w, page);
	} else {
		check(w, page, __atomic_load_n(slot(w, page), __ATOMIC_RELAXED));
		w->reads++;
	}
}

/* A page of this round's working set (half of the pages that have no role), or any page without a role. */
static uint64_t pick(struct writer *w, bool working)
{
	const struct evict *e = w->e;
	uint64_t half = working ? e->round % 2 : kst_random(&w->random) % 2;
	uint64_t group = kst_random(&w->random) % (e->pages / ROLES);

	return group * ROLES + 2 + half * 3 + kst_random(&w->random) % 3;
}

/* Any page, read-hot ones too, but not the cold ones: those are for the ambush. */
static uint64_t pick_racing(struct writer *w)
{
	return kst_random(&w->random) % ROLES ? pick(w, false) :
						kst_random(&w->random) % (w->e->pages / ROLES) * ROLES + ROLE_READ_HOT;
}

static void half_done(struct writer *w)
{
	pthread_mutex_lock(&w->e->lock);
	w->halves++;
	pthread_cond_broadcast(&w->e->changed);
	pthread_mutex_unlock(&w->e->lock);
}

/* A round of a writer: as many accesses as there are pages, half of them before the eviction and half while it runs. */
static void write_round(struct writer *w)
{
	struct evict *e = w->e;

	for (uint64_t i = 0; i < e->pages / 2 && !e->stop; i++)
		access_once(w, pick(w, true));
	half_done(w);
	/* go on while the mode is switched, now and then (ever rarer) on a page that is still protected */
	for (uint64_t i = 1; i < SWITCH_ACCESSES && !e->race && !e->stop; i++)
		access_once(w, pick(w, (i & (i - 1)) != 0));
	pthread_mutex_lock(&e->lock);
	while (!e->race && !e->stop)
		pthread_cond_wait(&e->changed, &e->lock);
	pthread_mutex_unlock(&e->lock);
	for (uint64_t i = 0; i < e->pages / 2 && !e->stop; i++)
		access_once(w, pick_racing(w));
	half_done(w);
}

static void *run_writer(void *arg)
{
	struct writer *w = arg;
	struct evict *e = w->e;

	pthread_mutex_lock(&e->lock);
	while (!e->stop) {
		if (w->halves < 2 * e->round) {
			pthread_mutex_unlock(&e->lock);
			write_round(w);
			pthread_mutex_lock(&e->lock);
		} else {
			pthread_cond_wait(&e->changed, &e->lock);
		}
	}
	pthread_mutex_unlock(&e->lock);
	return NULL;
}

/* Reads every page back through the guest mapping: all counters, and all the bytes that nobody wrote. */
static void verify(struct writer *w)
{
	struct evict *e = w->e;

	for (uint64_t page = 0; page < e->pages && !e->stop; page++) {
		const uint64_t *words = (const uint64_t *)(e->guest.addr + page * e->guest.page_size);
		bool damaged = false;

		for (unsigned int i = 0; i <= e->writers; i++)
			check(&e->writer[i], page, __atomic_load_n(&words[i], __ATOMIC_RELAXED));
		for (size_t i = e->writers + 1; i < e->guest.page_size / sizeof(*words); i++)
			damaged |= words[i] != pattern(e, page, i);
		if (damaged && !e->stop)
			e->damaged++;
	}
}

static void do_job(struct writer *w, enum job job, uint64_t page)
{
	struct evict *e = w->e;

	switch (job) {
	case JOB_READ_HOT:
		for (uint64_t p = ROLE_READ_HOT; p < e->pages && !e->stop; p += ROLES) {
			check(w, p, __atomic_load_n(slot(w, p), __ATOMIC_RELAXED));
			w->reads++;
			pthread_mutex_lock(&e->lock);
			e->page[p] |= PAGE_READ;
			pthread_mutex_unlock(&e->lock);
		}
		break;
	case JOB_AMBUSH:
		if (!e->drop_write) {
			write_once(w, page);
			break;
		}
		e->drop_write = false; /* the control: one write is claimed and not made */
		w->expected[page]++;
		w->writes++;
		__atomic_load_n(slot(w, page), __ATOMIC_RELAXED);
		break;
	case JOB_READ:
		check(w, page, __atomic_load_n(slot(w, page), __ATOMIC_RELAXED));
		w->reads++;
		break;
	case JOB_VERIFY:
		verify(w);
		break;
	case JOB_NONE:
		break;
	}
}

static void *run_helper(void *arg)
{
	struct writer *w = arg;
	struct evict *e = w->e;

	pthread_mutex_lock(&e->lock);
	w->tid = (pid_t)syscall(SYS_gettid);
	while (!e->stop) {
		if (e->job != JOB_NONE) {
			enum job job = e->job;
			uint64_t page = e->job_page;

			pthread_mutex_unlock(&e->lock);
			do_job(w, job, page);
			pthread_mutex_lock(&e->lock);
			e->job = JOB_NONE;
			pthread_cond_broadcast(&e->changed);
		} else {
			pthread_cond_wait(&e->changed, &e->lock);
		}
	}
	pthread_mutex_unlock(&e->lock);
	return NULL;
}

/* A page that is not there: fetch it from storage. With the lock held, so that no page is fetched half evicted. */
static void fetch(struct evict *e, uint64_t page)
{
	size_t size = e->guest.page_size;
	struct uffdio_copy copy = {
		.dst = (uintptr_t)e->guest.addr + page * size,
		.src = (uintptr_t)e->storage + page * size,
		.len = size,
	};
	struct uffdio_range range = { .start = copy.dst, .len = size };

	if (!(e->page[page] & PAGE_STORED)) {
		ioctl(e->track.uffd, UFFDIO_WAKE, &range); /* another fault on it was served meanwhile */
	} else if (!ioctl(e->track.uffd, UFFDIO_COPY, &copy)) {
		/* it comes back unprotected: with wp, which has no scan to tell, it must not be chosen this round */
		e->page[page] = (uint8_t)((e->page[page] & ~PAGE_STORED) | (e->rwp ? 0 : PAGE_WRITTEN));
		e->fetched++;
	} else {
		kst_evict_failed(e, errno, "UFFDIO_COPY of an evicted page");
	}
}

static void handle(struct evict *e, const struct uffd_msg *msg)
{
	uint64_t offset = msg->arg.pagefault.address - (uintptr_t)e->guest.addr;
	uint64_t flags = msg->arg.pagefault.flags, page = offset / e->guest.page_size;
	int err = 0;

	pthread_mutex_lock(&e->lock);
	e->faults++;
	if (msg->event != UFFD_EVENT_PAGEFAULT || offset >= e->guest.len) {
		kst_evict_failed(e, EPROTO, "an event that is no page fault of the guest memory");
	} else if (flags & (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_RWP)) {
		if (e->job == JOB_AMBUSH && page == e->job_page && msg->arg.pagefault.feat.ptid == (uint32_t)e->writer[e->writers].tid) {
			e->trapped = true;
			pthread_cond_broadcast(&e->changed);
		}
		/*
		 * A page that traps in sync mode is being evicted, and its thread is woken when it is gone: to resolve
		 * the fault here would let a write through after the page was written out. With wp the same fault is
		 * also how a page is found to be written; it is resolved if the page stays.
		 */
		if (!e->rwp && !(e->page[page] & PAGE_EVICTING)) {
			e->page[page] |= PAGE_WRITTEN;
			err = kst_track_protect(&e->track, e->guest.addr + page * e->guest.page_size, e->guest.page_size, false);
			if (err)
				kst_evict_failed(e, err, "resolving a write fault");
		}
	} else {
		fetch(e, page);
	}
	pthread_mutex_unlock(&e->lock);
}

static void *run_handler(void *arg)
{
	struct evict *e = arg;
	struct pollfd fds[] = { { .fd = e->track.uffd, .events = POLLIN }, { .fd = e->stop_fd, .events = POLLIN } };
	struct uffd_msg msg;

	while (poll(fds, 2, -1) >= 0 || errno == EINTR) {
		if (fds[1].revents)
			return NULL;
		if (read(e->track.uffd, &msg, sizeof(msg)) == sizeof(msg))
			handle(e, &msg);
	}
	return NULL;
}

int kst_evict_start(struct evict *e)
{
	int err = pthread_create(&e->handler, NULL, run_handler, e);

	e->handler_started = !err;
	for (; !err && e->threads <= e->writers; e->threads += !err) {
		struct writer *w = &e->writer[e->threads];

		w->e = e;
		w->id = e->threads;
		w->random = e->seed + w->id;
		err = pthread_create(&w->thread, NULL, w->id == e->writers ? run_helper : run_writer, w);
	}
	return err;
}

bool kst_evict_end(struct evict *e)
{
	uint64_t ns = kst_now_ns() + e->timeout_ms * 1000000 / 16;
	struct timespec until;
	bool ended = true;

	if (e->handler_started) {
		eventfd_write(e->stop_fd, 1);
		pthread_join(e->handler, NULL);
	}
	atomic_store(&e->stop, true);
	close(e->track.uffd); /* wakes every thread that waits for a fault */
	e->track.uffd = -1;
	pthread_mutex_lock(&e->lock);
	pthread_cond_broadcast(&e->changed);
	pthread_mutex_unlock(&e->lock);
	until.tv_sec = (time_t)(ns / 1000000000);
	until.tv_nsec = (long)(ns % 1000000000);
	for (unsigned int i = 0; i < e->threads; i++)
		if (pthread_clockjoin_np(e->writer[i].thread, NULL, CLOCK_MONOTONIC, &until))
			ended = false;
	return ended;
}
