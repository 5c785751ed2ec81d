/* SPDX-License-Identifier: MIT */
/* race_threads.c - the racers, and the thread that disturbs them. */
#define _GNU_SOURCE
#include "race.h"
#include "uapi.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void access_once(struct racer *r)
{
	struct race *race = r->race;
	uint64_t number = kst_random(&r->random), page = number % race->mem.pages;
	uint64_t *counter = (uint64_t *)(race->mem.addr + page * race->mem.page_size) + 1 + r->id;
	bool read = race->rwp && number >> 32 & 1; /* write protection stops no read */
	uint64_t seen = read ? __atomic_load_n(counter, __ATOMIC_RELAXED) : __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);

	r->damaged += seen != r->expected[page];
	r->expected[page] = seen + !read;
	r->accesses++;
}

static void *run_racer(void *arg)
{
	struct racer *r = arg;

	r->tid = (pid_t)syscall(SYS_gettid);
	sem_post(&r->race->moved);
	while (!atomic_load(&r->race->stop)) {
		access_once(r);
		if (atomic_load(&r->owed) && atomic_fetch_sub(&r->owed, 1) == 1)
			sem_post(&r->race->moved);
	}
	return NULL;
}

int kst_race_read(struct race *race)
{
	struct uffd_msg msg;
	ssize_t n = read(race->track.uffd, &msg, sizeof(msg));

	if (n != sizeof(msg))
		return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : EPROTO;
	if (msg.event != UFFD_EVENT_PAGEFAULT)
		return EPROTO;
	pthread_mutex_lock(&race->lock);
	race->messages++;
	for (unsigned int i = 0; i < KST_RACERS; i++) {
		if (msg.arg.pagefault.feat.ptid != (uint32_t)race->racer[i].tid)
			continue;
		if (race->blocked >> i & 1 && !race->helped)
			race->again++;
		race->blocked |= 1u << i;
	}
	if (race->blocked == (1u << KST_RACERS) - 1)
		eventfd_write(race->all_blocked, 1);
	pthread_mutex_unlock(&race->lock);
	return 0;
}

static int disturb_fork(struct race *race)
{
	pid_t pid = fork();

	(void)race;
	if (!pid)
		_exit(0);
	return pid < 0 || waitpid(pid, NULL, 0) != pid ? errno : 0;
}

static int disturb_scan(struct race *race)
{
	struct page_region found[KST_RACE_PAGES];
	size_t n;

	return kst_track_scan(&race->track, &race->mem, race->pagemap, found, &n);
}

/* Splits the mapping and merges it again; what is allowed to the racers stays allowed. */
static int disturb_mprotect(struct race *race)
{
	size_t half = race->mem.pages / 2 * race->mem.page_size;
	const int prot = PROT_READ | PROT_WRITE;

	if (mprotect(race->mem.addr, half, prot | PROT_EXEC) || mprotect(race->mem.addr, half, prot))
		return errno;
	return 0;
}

/* Other memory of the same userfaultfd comes, is protected, and goes. */
static int disturb_unmap(struct race *race)
{
	struct kst_mem other;
	json_t *reply = kst_mem_map(&other, "anon", 4);
	int err = reply ? ENOMEM : kst_track_register(&race->track, &other, 0);

	json_decref(reply);
	if (!err)
		err = kst_track_protect(&race->track, other.addr, other.len, true);
	if (!reply)
		kst_mem_unmap(&other);
	return err;
}

/* Memory comes, is registered, and goes, while the rounds protect and resolve it. */
static int disturb_vanish(struct race *race)
{
	const int flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS;
	int err = kst_mem_map_at(&race->spare, race->spare.addr);

	if (err)
		return err;
	kst_mem_touch(&race->spare, true);
	err = kst_track_register(&race->track, &race->spare, 0);
	if (!err && mmap(race->spare.addr, race->spare.len, PROT_NONE, flags, -1, 0) == MAP_FAILED)
		err = errno;
	return err;
}

/* Another userfaultfd of this process, with memory of its own, goes through its modes. */
static int disturb_descriptor(struct race *race)
{
	struct kst_track track = { .uffd = -1 };
	struct kst_mem other;
	json_t *reply = kst_mem_map(&other, "anon", 4);
	int err = ENOMEM;

	if (!reply)
		reply = kst_track_open(&track, race->rwp, false, 0);
	if (!reply) {
		err = kst_track_register(&track, &other, 0);
		for (int i = 0; !err && i < 4; i++) {
			err = race->rwp ? kst_track_set_async(&track, i % 2) : 0;
			if (!err)
				err = kst_track_protect(&track, other.addr, other.len, i % 2);
		}
		close(track.uffd);
	}
	json_decref(reply);
	kst_mem_unmap(&other);
	return err;
}

static const struct disturbance {
	const char *name;
	int (*fn)(struct race *race);
} disturbances[] = {
	{ "none", NULL },		{ "fork", disturb_fork },	    { "scan", disturb_scan },
	{ "mprotect", disturb_mprotect }, { "unmap", disturb_unmap },	    { "descriptor", disturb_descriptor },
	{ "reader", kst_race_read },	  { "vanish", disturb_vanish },
};

const char *kst_race_disturbance(struct race *race, const char *name)
{
	for (size_t i = 0; i < sizeof(disturbances) / sizeof(disturbances[0]); i++) {
		if (strcmp(disturbances[i].name, name))
			continue;
		race->disturb = disturbances[i].fn;
		race->helped = race->disturb == kst_race_read;
		race->vanishes = race->disturb == disturb_vanish;
		return disturbances[i].name;
	}
	return NULL;
}

static void *run_disturber(void *arg)
{
	struct race *race = arg;

	while (!race->disturb_err && !atomic_load(&race->stop)) {
		race->disturb_err = race->disturb(race);
		race->disturbances++;
	}
	return NULL;
}

int kst_race_start(struct race *race)
{
	int err = 0;

	for (; !err && race->started < KST_RACERS; race->started += !err) {
		struct racer *r = &race->racer[race->started];

		r->race = race;
		r->id = race->started;
		r->random = race->seed + r->id;
		err = pthread_create(&r->thread, NULL, run_racer, r);
	}
	for (unsigned int i = 0; i < race->started; i++) /* its tid is known */
		while (sem_wait(&race->moved))
			;
	if (!err && race->disturb) {
		err = pthread_create(&race->disturber, NULL, run_disturber, race);
		race->disturbed = !err;
	}
	return err;
}

bool kst_race_end(struct race *race)
{
	struct timespec until;
	bool ended = true;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(race->bound_ns / 1000000000);
	atomic_store(&race->stop, true);
	if (race->disturbed && pthread_clockjoin_np(race->disturber, NULL, CLOCK_MONOTONIC, &until))
		return false;
	close(race->track.uffd); /* wakes every thread that waits for a fault */
	race->track.uffd = -1;
	for (unsigned int i = 0; i < race->started; i++)
		if (pthread_clockjoin_np(race->racer[i].thread, NULL, CLOCK_MONOTONIC, &until))
			ended = false;
	return ended;
}
