/* SPDX-License-Identifier: MIT */
/*
 * evict_rounds.c - the documented loop, round by round, and its negative variants.
 *
 * A round is: protect, let the threads run (async), UFFDIO_SET_MODE to sync, PAGEMAP_SCAN, then for each page that is
 * not hot: write out through the second mapping, punch a hole, UFFDIO_WAKE; then async again.
 *
 * Which pages may be evicted is decided from what was resident BEFORE the scan: a hole that the scan skips can be
 * fetched, unprotected, right after it.
 *
 * With wp the loop is the best a wp-only kernel allows: sync write protection throughout (WP_ASYNC cannot be switched
 * off for the eviction, UFFDIO_SET_MODE is RWP only), pages found written by their faults. It loses no write
 * either, but a page that is only read looks cold: `hot_evicted` counts those.
 *
 * Luck plays no part in the negative variants: in every round the helper makes one write, the ambush, to a page that is
 * written out and not yet punched, and the loop goes on only when that write has either happened or been trapped.
 */
#define _GNU_SOURCE
#include "evict.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define NO_WAKE_MS 1000 /* how long the variant no_wake waits for what cannot happen */

static bool sync_reached(const struct evict *e)
{
	return e->rwp && e->variant != STAY_ASYNC;
}

static bool halves_done(const struct evict *e, unsigned int halves)
{
	for (unsigned int i = 0; i < e->writers; i++)
		if (e->writer[i].halves < halves)
			return false;
	return true;
}

static bool first_half_done(const struct evict *e)
{
	return halves_done(e, 2 * e->round - 1);
}

static bool round_done(const struct evict *e)
{
	return halves_done(e, 2 * e->round);
}

static bool job_done(const struct evict *e)
{
	return e->job == JOB_NONE;
}

static bool ambush_settled(const struct evict *e)
{
	return e->trapped || job_done(e);
}

/* Waits, at most `ms`, until `ready`. When it does not come true the threads that have not finished count as asleep. */
static bool await(struct evict *e, bool (*ready)(const struct evict *), uint64_t ms, const char *what)
{
	uint64_t until = kst_now_ns() + ms * 1000000;
	struct timespec ts = { .tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000) };
	bool ok;

	pthread_mutex_lock(&e->lock);
	while (!ready(e) && !e->err)
		if (pthread_cond_timedwait(&e->changed, &e->lock, &ts))
			break;
	ok = ready(e);
	if (!ok && !e->err && !e->asleep) {
		snprintf(e->awaited, sizeof(e->awaited), "round %u: waited %llu ms for %s", e->round, (unsigned long long)ms, what);
		for (unsigned int i = 0; i < e->writers; i++)
			e->asleep += e->writer[i].halves < 2 * e->round;
		e->asleep += e->job != JOB_NONE;
	}
	pthread_mutex_unlock(&e->lock);
	return ok;
}

static void order(struct evict *e, enum job job, uint64_t page)
{
	pthread_mutex_lock(&e->lock);
	e->job = job;
	e->job_page = page;
	e->trapped = false;
	pthread_cond_broadcast(&e->changed);
	pthread_mutex_unlock(&e->lock);
}

static void start_race(struct evict *e)
{
	pthread_mutex_lock(&e->lock);
	e->race = true;
	pthread_cond_broadcast(&e->changed);
	pthread_mutex_unlock(&e->lock);
}

static bool run_job(struct evict *e, enum job job, uint64_t page, const char *what)
{
	order(e, job, page);
	return await(e, job_done, e->timeout_ms / 4, what);
}

static bool failed(struct evict *e, int err, const char *what)
{
	if (err) {
		pthread_mutex_lock(&e->lock);
		kst_evict_failed(e, err, what);
		pthread_mutex_unlock(&e->lock);
	}
	return err;
}

/* Marks PAGE_COLD what is to be evicted. */
static bool choose_cold(struct evict *e)
{
	const struct page_region *region = e->vec;
	bool by_fault = !e->rwp && e->variant != STAY_ASYNC;
	size_t n = 0;

	pthread_mutex_lock(&e->lock);
	for (uint64_t p = 0; p < e->pages; p++) {
		bool known = e->variant != SKIP_PROTECT || p % ROLES == ROLE_COLD;

		if (known && !(e->page[p] & (PAGE_STORED | PAGE_WRITTEN)))
			e->page[p] |= PAGE_COLD | PAGE_EVICTING;
	}
	pthread_mutex_unlock(&e->lock);
	if (by_fault || e->variant == SKIP_PROTECT)
		return true;
	if (failed(e, kst_track_scan(&e->track, &e->guest, e->pagemap, e->vec, &n), "PAGEMAP_SCAN"))
		return false;
	pthread_mutex_lock(&e->lock);
	for (size_t i = 0; i < n; i++)
		for (uint64_t a = region[i].start; a < region[i].end; a += e->guest.page_size)
			e->page[(a - (uintptr_t)e->guest.addr) / e->guest.page_size] &= (uint8_t) ~(PAGE_COLD | PAGE_EVICTING);
	pthread_mutex_unlock(&e->lock);
	return true;
}

/* With the lock held, so that a fetch finds the page either there or stored. */
static void drop(struct evict *e, uint64_t page)
{
	size_t size = e->guest.page_size;

	if (fallocate(e->guest.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(page * size), (off_t)size))
		kst_evict_failed(e, errno, "punching a hole");
	e->hot_evicted += (e->page[page] & PAGE_READ) != 0;
	e->page[page] = PAGE_STORED;
	e->evicted++;
}

static bool wake(struct evict *e, uint64_t page)
{
	size_t size = e->guest.page_size;
	struct uffdio_range range = { .start = (uintptr_t)e->guest.addr + page * size, .len = size };

	return !failed(e, ioctl(e->track.uffd, UFFDIO_WAKE, &range) ? errno : 0, "UFFDIO_WAKE");
}

/* Evicts the page if it is on the list. False ends the rounds. */
static bool evict_page(struct evict *e, uint64_t page, bool ambush)
{
	uint64_t bound = e->timeout_ms / 4;
	size_t size = e->guest.page_size;

	pthread_mutex_lock(&e->lock);
	if (!(e->page[page] & PAGE_COLD)) {
		pthread_mutex_unlock(&e->lock);
		return true;
	}
	memcpy(e->storage + page * size, e->io + page * size, size);
	if (e->corrupt_evicted) /* the control: the last byte, which nobody writes */
		e->storage[(page + 1) * size - 1] ^= 1;
	if (ambush) {
		pthread_mutex_unlock(&e->lock);
		order(e, JOB_AMBUSH, page);
		if (!await(e, ambush_settled, bound, "the ambush to write or be trapped"))
			return false;
		pthread_mutex_lock(&e->lock);
		e->ambushes_trapped += e->trapped;
	}
	drop(e, page);
	pthread_mutex_unlock(&e->lock);
	if (e->variant == NO_WAKE)
		bound = bound < NO_WAKE_MS ? bound : NO_WAKE_MS;
	else if (!wake(e, page))
		return false;
	/* before async mode comes back, which would wake everybody */
	return !ambush || (await(e, job_done, bound, "a thread whose page was evicted to run again") &&
			   run_job(e, JOB_READ, page, "the fetch of an evicted page"));
}

static bool run_round(struct evict *e, uint64_t victim)
{
	/* the pages whose fate is judged are there, whatever the last round did to them */
	if (!run_job(e, JOB_READ, victim, "the fetch of a page") ||
	    !run_job(e, JOB_READ_HOT, 0, "the fetch of the read-hot pages"))
		return false;
	pthread_mutex_lock(&e->lock);
	for (uint64_t p = 0; p < e->pages; p++)
		e->page[p] &= PAGE_STORED;
	pthread_mutex_unlock(&e->lock);
	if (e->variant != SKIP_PROTECT &&
	    failed(e, kst_track_protect(&e->track, e->guest.addr, e->guest.len, true), "protecting the guest memory"))
		return false;
	pthread_mutex_lock(&e->lock);
	e->race = false;
	e->round++;
	pthread_cond_broadcast(&e->changed);
	pthread_mutex_unlock(&e->lock);
	if (!run_job(e, JOB_READ_HOT, 0, "the reads of the read-hot pages") ||
	    !await(e, first_half_done, e->timeout_ms / 4, "the writers' first half"))
		return false;

	if (e->variant == SCAN_BEFORE_SYNC && (!choose_cold(e) || !run_job(e, JOB_AMBUSH, victim, "a write before sync mode")))
		return false;
	if (sync_reached(e) && failed(e, kst_track_set_async(&e->track, false), "UFFDIO_SET_MODE to sync"))
		return false;
	if (e->rwp) /* with wp a write from now on would make a read-hot page a written one */
		start_race(e);
	if (e->variant != SCAN_BEFORE_SYNC && !choose_cold(e))
		return false;
	start_race(e);

	for (uint64_t p = 0; p < e->pages; p++)
		if (!evict_page(e, p, p == victim))
			return false;

	if (sync_reached(e) && failed(e, kst_track_set_async(&e->track, true), "UFFDIO_SET_MODE to async"))
		return false;
	return await(e, round_done, e->timeout_ms / 4, "the writers to finish the round");
}

/* Wakes who sleeps by undoing all protection, so that the contents can still be judged. */
static bool rescue(struct evict *e)
{
	pthread_mutex_lock(&e->lock);
	for (uint64_t p = 0; p < e->pages; p++)
		e->page[p] &= PAGE_STORED;
	pthread_mutex_unlock(&e->lock);
	start_race(e);
	return !failed(e, kst_track_protect(&e->track, e->guest.addr, e->guest.len, false), "undoing the protection") &&
	       await(e, job_done, e->timeout_ms / 16, "") && await(e, round_done, e->timeout_ms / 16, "");
}

json_t *kst_evict_run(struct evict *e)
{
	uint64_t begin = kst_now_ns();

	for (uint64_t i = 0; i < e->rounds; i++) {
		if (kst_now_ns() - begin > e->timeout_ms * 500000)
			return kst_error("evict: %llu of %llu rounds took half of timeout_ms (%llu): give more time or fewer rounds",
					 (unsigned long long)i, (unsigned long long)e->rounds,
					 (unsigned long long)e->timeout_ms);
		if (!run_round(e, i % (e->pages / ROLES) * ROLES + ROLE_COLD))
			break;
	}
	if (e->asleep && !e->err && !rescue(e))
		return NULL;
	if (!e->err) {
		order(e, JOB_VERIFY, 0);
		await(e, job_done, e->timeout_ms / 16, "the last reading of every page");
	}
	return NULL;
}
