/* SPDX-License-Identifier: MIT */
/*
 * evict.h - what the evictor (evict_rounds.c) and the threads it races (evict_threads.c) share.
 *
 * The guest memory is a memfd mapped twice, as the documented workflow has it: `guest` is protected and accessed by
 * the writers, `io` is how the evictor reads. `storage` is where evicted pages are kept.
 */
#ifndef KST_EVICT_H
#define KST_EVICT_H

#include "workload.h"

#include <stdatomic.h>
#include <sys/types.h>

/* Pages have roles by number, so that every round has hot, read-hot and cold pages. */
#define ROLES 8
#define ROLE_READ_HOT 0 /* read by the helper in every round, before the eviction */
#define ROLE_COLD 1     /* touched by nobody but the helper's ambush */

/* What is known of a page; guarded by evict.lock. */
#define PAGE_STORED 1	 /* evicted: its bytes are in storage, its offset is a hole */
#define PAGE_EVICTING 2	 /* wp: chosen for eviction, so a fault on it must wait */
#define PAGE_WRITTEN 4	 /* wp: a fault told that it was written, or fetched, since it was protected */
#define PAGE_READ 8	 /* read by the helper since it was protected */
#define PAGE_COLD 16	 /* on this round's list */

enum variant { DOCUMENTED, SCAN_BEFORE_SYNC, NO_WAKE, STAY_ASYNC, SKIP_PROTECT };

/* What the helper thread does when asked: it alone makes the evictor's accesses, so the evictor never blocks. */
enum job { JOB_NONE, JOB_READ, JOB_READ_HOT, JOB_AMBUSH, JOB_VERIFY };

/* A thread with a counter of its own in every page; the last one is the helper. */
struct writer {
	struct evict *e;
	unsigned int id;
	pthread_t thread;
	pid_t tid;
	uint64_t random;
	uint64_t *expected;	      /* per page: what its counter must read */
	unsigned int halves;	      /* half rounds finished; guarded by evict.lock */
	uint64_t reads, writes, lost; /* read by others when the thread is idle */
};

struct evict {
	/* as asked */
	bool rwp, drop_write, corrupt_evicted;
	enum variant variant;
	uint64_t pages, rounds, seed, timeout_ms;
	unsigned int writers;

	struct kst_mem guest;
	char *io, *storage;
	uint8_t *page; /* PAGE_* of each page */
	struct kst_track track;
	int pagemap, stop_fd;
	void *vec;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* of anything below, and of writer.halves */
	struct writer *writer;	/* writers + 1 */
	uint64_t *expected;	/* theirs */
	pthread_t handler;
	unsigned int threads; /* of `writer` that were started */
	bool handler_started;
	enum job job; /* JOB_NONE when the helper is idle */
	uint64_t job_page;
	bool trapped;	    /* the helper's access is known to wait for its fault */
	unsigned int round; /* writers run while their halves are below twice this */
	atomic_bool race;   /* second half: any page, hot or cold */
	atomic_bool stop;   /* the contents mean nothing any more */

	/* the outcome; guarded by lock */
	uint64_t evicted, fetched, faults, hot_evicted, damaged, ambushes_trapped;
	unsigned int asleep;
	char first_lost[200], awaited[120];
	int err;
	const char *err_what;
};

/* evict_rounds.c: runs the rounds, then has all read back. NULL, or the reply when the rounds took too long. */
json_t *kst_evict_run(struct evict *e);
/* evict_threads.c: starts handler, writers and helper; 0 or an errno. */
int kst_evict_start(struct evict *e);
/* Ends all threads after closing the userfaultfd. False when one would not end: then nothing may be freed. */
bool kst_evict_end(struct evict *e);
/* Fills a page of the `io` mapping with what it holds at first: counters 0, the rest a pattern. */
void kst_evict_stamp(const struct evict *e, uint64_t page);
/* Records the first error of the loop itself. With the lock held. */
void kst_evict_failed(struct evict *e, int err, const char *what);

#endif
