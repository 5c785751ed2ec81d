/* SPDX-License-Identifier: MIT */
/*
 * race_rounds.c - protection put on and taken off, round after round, while threads access the memory without pause.
 *
 * A round: in sync mode, protect all pages. Then, in some rounds, wait until every racer is blocked; by then every
 * page must still be protected, since nobody resolves: a fault that was on its way when the mode changed and resolves
 * itself afterwards shows here. In the other rounds nobody waits. Then let the racers go (resolve, resolve and wake
 * apart, switch to async mode, close the descriptor): each must make two accesses more, so that one of them began
 * afterwards; a fault that goes to sleep although its page is free by then shows here.
 *
 * The main thread runs at SCHED_FIFO if it may, and pauses for a random while before it protects, and before it lets
 * go: so it preempts a racer at any instruction of its fault. These pauses wait for nothing.
 */
#define _GNU_SOURCE
#include "race.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PAUSE_NS 100000 /* at most, before protecting: the racers fault on what is protected still */
#define RACE_NS 40000   /* at most, before letting go: the racers fault on what was just protected */
#define CHECKED 4       /* one round of so many waits until every racer is blocked */

static void note(struct race *race, const char *what, uint64_t number)
{
	if (!race->first[0])
		snprintf(race->first, sizeof(race->first), "round %llu: %s %llu", (unsigned long long)race->round, what,
			 (unsigned long long)number);
}

/* Registers all memory with a new userfaultfd. */
static json_t *open_track(struct race *race)
{
	json_t *reply = kst_track_open(&race->track, race->rwp, race->release == RELEASE_SET_MODE, UFFD_FEATURE_THREAD_ID);
	int err = reply ? 0 : kst_track_register(&race->track, &race->mem, 0);

	return err ? kst_errno(err, "UFFDIO_REGISTER") : reply;
}

/* Every racer makes two accesses more. */
static bool all_move(struct race *race)
{
	struct timespec until;

	for (unsigned int i = 0; i < KST_RACERS; i++)
		atomic_store(&race->racer[i].owed, 2);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(race->bound_ns / 1000000000);
	for (unsigned int i = 0; i < KST_RACERS; i++)
		while (sem_clockwait(&race->moved, CLOCK_MONOTONIC, &until))
			if (errno != EINTR)
				return false;
	return true;
}

/* Every racer is blocked, and the kernel has said so. */
static int all_block(struct race *race, bool *blocked)
{
	struct pollfd fds[] = { { .fd = race->track.uffd, .events = POLLIN }, { .fd = race->all_blocked, .events = POLLIN } };
	uint64_t until = kst_now_ns() + race->bound_ns;
	eventfd_t ignored;
	int err = 0;

	*blocked = false;
	while (!err && !*blocked && kst_now_ns() < until) {
		if (poll(fds, 2, 100) < 0 && errno != EINTR)
			return errno;
		if (fds[0].revents)
			err = kst_race_read(race);
		*blocked = fds[1].revents;
	}
	eventfd_read(race->all_blocked, &ignored);
	return err;
}

static void check_armed(struct race *race)
{
	uint64_t entries[KST_RACE_PAGES], grains = race->mem.page_size / 4096;

	for (uint64_t i = 0; i < race->mem.pages; i++) {
		uint64_t at = (uintptr_t)race->mem.addr / 4096 + i * grains;

		if (pread(race->pagemap, &entries[i], sizeof(entries[i]), (off_t)(at * 8)) == 8 && entries[i] >> 57 & 1)
			continue;
		race->unarmed++;
		note(race, "nobody resolved it, and it is not protected: page", i);
	}
}

static json_t *let_go(struct race *race)
{
	struct uffdio_range range = { .start = (uintptr_t)race->mem.addr, .len = race->mem.len };
	struct uffdio_rwprotect rwp = { .range = range, .mode = UFFDIO_RWPROTECT_MODE_DONTWAKE };
	struct uffdio_writeprotect wp = { .range = range, .mode = UFFDIO_WRITEPROTECT_MODE_DONTWAKE };
	int err = 0;

	if (race->release == RELEASE_CLOSE) {
		close(race->track.uffd);
		return open_track(race);
	}
	if (race->release == RELEASE_SET_MODE)
		err = kst_track_set_async(&race->track, true);
	else if (race->release == RELEASE_RESOLVE && !race->lose_wake)
		err = kst_track_protect(&race->track, race->mem.addr, race->mem.len, false);
	else if (race->rwp ? ioctl(race->track.uffd, UFFDIO_RWPROTECT, &rwp) : ioctl(race->track.uffd, UFFDIO_WRITEPROTECT, &wp))
		err = errno;
	else if (!race->lose_wake && ioctl(race->track.uffd, UFFDIO_WAKE, &range))
		err = errno;
	return err ? kst_errno(err, "letting the racers go") : NULL;
}

static void any_moment(struct race *race, uint64_t most_ns)
{
	struct timespec pause = { 0, (long)(kst_random(&race->seed) % most_ns) };

	clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
}

/* Protects, and resolves, the memory that comes and goes: done, or ENOENT since it is not there. 0 or an errno. */
static int spare_too(struct race *race)
{
	int err = 0;

	for (int on = 1; !err && race->vanishes && on >= 0; on--) {
		err = kst_track_protect(&race->track, race->spare.addr, race->spare.len, on);
		err = err == ENOENT ? 0 : err;
	}
	return err;
}

static json_t *one_round(struct race *race)
{
	bool blocked = true;
	int err = 0;

	any_moment(race, PAUSE_NS);
	pthread_mutex_lock(&race->lock);
	race->blocked = 0;
	pthread_mutex_unlock(&race->lock);
	if (race->release == RELEASE_SET_MODE)
		err = kst_track_set_async(&race->track, false);
	if (!err)
		err = kst_track_protect(&race->track, race->mem.addr, race->mem.len, true);
	if (!err)
		err = spare_too(race);
	if (!err && race->round % CHECKED) {
		any_moment(race, RACE_NS);
	} else if (!err) {
		err = all_block(race, &blocked);
		if (!err && !blocked) {
			race->escaped++;
			note(race, "not every racer is blocked, bits", race->blocked);
		} else if (!err) {
			check_armed(race);
		}
	}
	return err ? kst_errno(err, "a round") : let_go(race);
}

static json_t *run(struct race *race)
{
	json_t *reply = NULL;

	for (; !reply && race->round < race->rounds && !race->escaped && !race->disturb_err; race->round++) {
		reply = one_round(race);
		if (!reply && !all_move(race)) {
			race->asleep++;
			note(race, "after it a racer sleeps on, of", KST_RACERS);
			break;
		}
	}
	return reply;
}

static json_t *outcome(struct race *race)
{
	uint64_t accesses = 0, damaged = 0;

	for (unsigned int i = 0; i < KST_RACERS; i++) {
		accesses += race->racer[i].accesses;
		damaged += race->racer[i].damaged;
	}
	return kst_ok(json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "rounds", (json_int_t)race->round,
				"accesses", (json_int_t)accesses, "disturbances", (json_int_t)race->disturbances, "messages",
				(json_int_t)race->messages, "unarmed", (json_int_t)race->unarmed, "asleep",
				(json_int_t)race->asleep, "escaped", (json_int_t)race->escaped, "again",
				(json_int_t)race->again, "damaged", (json_int_t)damaged, "first", race->first));
}

static json_t *prepare(struct race *race, const char *kind, uint64_t pages)
{
	json_t *reply = kst_mem_map(&race->mem, kind, pages);

	if (!reply && race->vanishes)
		reply = kst_mem_map(&race->spare, "anon", 4);
	if (!reply)
		reply = open_track(race);
	race->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	race->all_blocked = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!reply && (race->pagemap < 0 || race->all_blocked < 0))
		reply = kst_errno(errno, "pagemap or eventfd");
	return reply;
}

static json_t *parse(struct race *race, const struct kst_subject *s, const json_t *args, const char **kind, uint64_t *pages)
{
	static const char *const releases[] = { "resolve", "dontwake", "set_mode", "close" };
	const char *release, *disturb;
	uint64_t timeout_ms;
	json_t *reply = NULL;

	race->track = (struct kst_track){ .uffd = -1, .lie = kst_control(s, "skip_protect") };
	race->lose_wake = kst_control(s, "lose_wake");
	if (!kst_loop_size(args, pages, &race->rounds, &reply) || !kst_arg_str(args, "kind", kind, &reply) ||
	    !kst_arg_either(args, "mode", "wp", "rwp", &race->rwp, &reply) || !kst_arg_u64(args, "seed", &race->seed, &reply) ||
	    !kst_arg_str(args, "release", &release, &reply) || !kst_arg_str_or(args, "disturb", "none", &disturb, &reply) ||
	    !kst_arg_range_or(args, "timeout_ms", 40000, 1000, 60000, &timeout_ms, &reply))
		return reply;
	race->bound_ns = timeout_ms * 1000000 / 4;
	if (*pages > KST_RACE_PAGES)
		return kst_error("pages: must be 1 to %d", KST_RACE_PAGES);
	if (!kst_race_disturbance(race, disturb))
		return kst_error("disturb: nothing is called %s", disturb);
	for (size_t i = 0; i < sizeof(releases) / sizeof(releases[0]); i++) {
		if (strcmp(releases[i], release))
			continue;
		race->release = (enum race_release)i;
		return i != RELEASE_SET_MODE || race->rwp ? NULL : kst_error("release: wp has no mode to set");
	}
	return kst_error("release: must be resolve, dontwake, set_mode or close");
}

static json_t *op_race(struct kst_subject *s, const json_t *args)
{
	struct race *race = calloc(1, sizeof(*race));
	const struct sched_param first = { .sched_priority = 1 }, normal = { .sched_priority = 0 };
	const char *kind;
	uint64_t pages;
	json_t *reply;
	int err;

	if (!race)
		abort();
	race->pagemap = race->all_blocked = -1;
	sem_init(&race->moved, 0, 0);
	pthread_mutex_init(&race->lock, NULL);
	reply = parse(race, s, args, &kind, &pages);
	if (!reply)
		reply = prepare(race, kind, pages);
	if (!reply) {
		err = kst_race_start(race);
		sched_setscheduler(0, SCHED_FIFO, &first);
		reply = err ? kst_errno(err, "pthread_create") : run(race);
		sched_setscheduler(0, SCHED_OTHER, &normal);
		if (!kst_race_end(race)) /* a thread still uses all this; the subject that holds it is not meant to last */
			return reply ? reply : outcome(race);
		if (!reply && race->disturb_err)
			reply = kst_errno(race->disturb_err, "the disturbance");
		if (!reply)
			reply = outcome(race);
	}
	if (race->track.uffd >= 0)
		close(race->track.uffd);
	if (race->pagemap >= 0)
		close(race->pagemap);
	if (race->all_blocked >= 0)
		close(race->all_blocked);
	kst_mem_unmap(&race->mem);
	kst_mem_unmap(&race->spare);
	free(race);
	return reply;
}

const struct kst_op kst_race_ops[] = { { "race", op_race }, { NULL, NULL } };
