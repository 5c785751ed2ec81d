/* SPDX-License-Identifier: MIT */
/* race.h - threads that access protected memory without pause, and what goes on beside them; see race_rounds.c. */
#ifndef KST_RACE_H
#define KST_RACE_H

#include "workload.h"

#include <semaphore.h>
#include <stdatomic.h>

#define KST_RACERS 2 /* one for each CPU: none waits for its turn */
#define KST_RACE_PAGES 128

struct race;

struct racer {
	struct race *race;
	unsigned int id;
	pthread_t thread;
	pid_t tid;
	uint64_t random, accesses, damaged;
	uint64_t expected[KST_RACE_PAGES]; /* of its own counter in each page */
	atomic_uint owed;                  /* accesses to make before it posts `moved` */
};

enum race_release { RELEASE_RESOLVE, RELEASE_DONTWAKE, RELEASE_SET_MODE, RELEASE_CLOSE };

struct race {
	struct kst_mem mem;
	struct kst_track track;
	bool rwp, lose_wake;
	enum race_release release;
	uint64_t seed, rounds, round, bound_ns; /* of each wait */
	unsigned int started;                   /* racers */
	struct racer racer[KST_RACERS];
	sem_t moved;
	atomic_bool stop;
	int pagemap;
	/* Who has been seen to be blocked in this round: bit i is racer i. */
	pthread_mutex_t lock;
	unsigned int blocked;
	int all_blocked; /* eventfd */
	/* Beside the racers. */
	int (*disturb)(struct race *race); /* 0 or an errno, over and over again; NULL: nothing */
	pthread_t disturber;
	bool disturbed; /* the thread was started */
	bool vanishes;  /* `spare` is wanted */
	bool helped;    /* it reads messages as well, so that one of the last round may be counted late */
	int disturb_err;
	uint64_t disturbances;
	struct kst_mem spare; /* memory that comes and goes while it is protected and resolved; addr NULL: there is none */
	/* What was seen. */
	uint64_t messages, unarmed, asleep, escaped, again;
	char first[160];
};

/* race_threads.c: 0 or an errno; false: a thread did not end in time, so nothing of this may be freed. */
int kst_race_start(struct race *race);
bool kst_race_end(struct race *race);
/* The disturbance of that name, or NULL; "none" is one, that does nothing. */
const char *kst_race_disturbance(struct race *race, const char *name);
/* Reads one message, if there is one: 0 or an errno. */
int kst_race_read(struct race *race);

#endif
