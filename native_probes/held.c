/* SPDX-License-Identifier: MIT */
/*
 * held.c - operations while pages are migration entries, in the middle of a migration that does not go on.
 *
 * A thread, the mover, migrates the pages to another node with move_pages(2), on a CPU of its own. They come first
 * in its list, and many more after them: the kernel unmaps a whole batch before it copies any of it
 * (migrate_pages_batch()), and a huge page takes long to copy. So they stay migration entries for a while. This
 * thread looks at the last of them from another CPU; once it is an entry, it wakes the holder: a thread on the
 * mover's CPU with a real-time priority, which makes the operations. The mover does not run as long as the holder
 * does not sleep: what is an entry before and after the operations has been one all the time. Until all pages are, it
 * is done again.
 */
#define _GNU_SOURCE
#include "workload.h"
#include "subject.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SMALL 4096ul
#define BATCH 512 /* NR_MAX_BATCHED_MIGRATION of mm/migrate.c */
#define PAGES_MAX 32
#define BEHIND (BATCH - PAGES_MAX) /* pages moved behind those that are to be held */
#define BOUND_NS 8000000000ull
#define MOVE_ALL 4 /* MPOL_MF_MOVE_ALL, include/uapi/linux/mempolicy.h */
#define PM_PRESENT (1ull << 63)

struct held {
	uint64_t addr, page_size, count; /* of what is held */
	char *behind;
	void *pages[PAGES_MAX + BEHIND];
	int nodes[PAGES_MAX + BEHIND], status[PAGES_MAX + BEHIND];
	int pagemap, cpu[2]; /* this thread's CPU, and that of the other two */
	sem_t go, ended, hold, done;
	atomic_bool under_way, stop;
	struct kst_subject *s;
	const json_t *calls;
	json_t *results; /* of the last try, NULL if it failed */
};

/* All pages to `node`; 0 or an errno. */
static int move_all(struct held *h, int node)
{
	uint64_t count = h->count + BEHIND;

	for (uint64_t i = 0; i < count; i++)
		h->nodes[i] = node;
	return syscall(SYS_move_pages, 0, count, h->pages, h->nodes, h->status, MOVE_ALL) < 0 ? errno : 0;
}

static void *mover(void *arg)
{
	struct held *h = arg;

	for (;;) {
		while (sem_wait(&h->go))
			;
		if (atomic_load(&h->stop))
			return NULL;
		move_all(h, h->nodes[0]); /* where a page is then is not of interest: it is looked at */
		atomic_store(&h->under_way, false);
		sem_post(&h->ended);
	}
}

/* No page is mapped there, and there was one: it is a migration entry (pagemap does not call it one on hugetlb). */
static bool is_entry(const struct held *h, uint64_t page)
{
	uint64_t entry, at = (h->addr + page * h->page_size) / SMALL * sizeof(entry);

	return pread(h->pagemap, &entry, sizeof(entry), (off_t)at) == sizeof(entry) && !(entry & PM_PRESENT);
}

static bool all_are_entries(const struct held *h)
{
	uint64_t i = 0;

	while (i < h->count && is_entry(h, i))
		i++;
	return i == h->count;
}

/* Makes the calls if all pages are entries; the results are kept if they still are after. */
static void hold(struct held *h)
{
	if (!all_are_entries(h))
		return;
	h->results = json_array();
	for (size_t i = 0; i < json_array_size(h->calls); i++)
		json_array_append_new(h->results, kst_subject_op(h->s, json_array_get(h->calls, i)));
	if (all_are_entries(h))
		return;
	json_decref(h->results);
	h->results = NULL;
}

static void *holder(void *arg)
{
	struct held *h = arg;

	free(malloc(1)); /* what the C library makes for a thread is made now */
	for (;;) {
		while (sem_wait(&h->hold))
			;
		if (atomic_load(&h->stop))
			return NULL;
		hold(h);
		sem_post(&h->done);
	}
}

/* One migration to `node`; the results if it could be held, else NULL. */
static json_t *try_once(struct held *h, int node)
{
	h->results = NULL;
	h->nodes[0] = node;
	atomic_store(&h->under_way, true);
	sem_post(&h->go);
	while (atomic_load(&h->under_way) && !is_entry(h, h->count - 1))
		;
	sem_post(&h->hold);
	while (sem_wait(&h->done))
		;
	while (sem_wait(&h->ended))
		;
	return h->results;
}

/* The node that all pages are on, after they were moved to that of the first if need be; or a negative errno. */
static int gather(struct held *h)
{
	bool apart = false;
	int err;

	if (syscall(SYS_move_pages, 0, h->count + BEHIND, h->pages, NULL, h->status, 0) < 0)
		return -errno;
	for (uint64_t i = 1; i < h->count + BEHIND; i++)
		apart |= h->status[i] != h->status[0];
	/* A page that is at the target already would end the batch before it. */
	if (!apart || h->status[0] < 0)
		return h->status[0];
	err = move_all(h, h->status[0]);
	return err ? -err : h->nodes[0];
}

static json_t *run(struct held *h)
{
	uint64_t end = kst_now_ns() + BOUND_NS;
	json_t *results;
	int node;

	do {
		node = gather(h);
		if (node < 0)
			return kst_errno(-node, "move_pages");
		results = try_once(h, !node);
	} while (!results && kst_now_ns() < end);
	return results ? kst_ok(json_pack("{s:o}", "results", results)) : kst_errno(EAGAIN, "no migration could be held");
}

/* What may be done: nothing that sleeps, as a rule. */
static bool calls_arg(const json_t *args, const json_t **calls, json_t **reply)
{
	static const char *const allowed[] = {"rwprotect", "writeprotect", "pagemap", "markers", "pagemap_scan"};
	size_t number;
	json_t *one;

	*calls = json_object_get(args, "calls");
	if (!json_is_array(*calls) || !json_array_size(*calls)) {
		*reply = kst_error("argument calls: must be operations");
		return false;
	}
	json_array_foreach(*calls, number, one) {
		const char *name = json_string_value(json_object_get(one, "op"));
		size_t i = 0;

		while (i < sizeof(allowed) / sizeof(allowed[0]) && (!name || strcmp(name, allowed[i])))
			i++;
		if (i == sizeof(allowed) / sizeof(allowed[0])) {
			*reply = kst_error("argument calls: must be rwprotect, writeprotect, pagemap, markers or pagemap_scan");
			return false;
		}
	}
	return true;
}

/* Two of the CPUs that this process was given; false if there is only one. */
static bool two_cpus(int cpu[2])
{
	int n = 0;

	for (int i = 0; i < CPU_SETSIZE && n < 2; i++)
		if (kst_cpus_has(i))
			cpu[n++] = i;
	return n == 2;
}

/* 0 or an errno. The holder comes first wherever it runs, the mover when nobody else wants to. */
static int start(struct held *h, pthread_t *thread, void *(*entry)(void *), bool first)
{
	const struct sched_param priority = {.sched_priority = first};
	pthread_attr_t attributes;
	cpu_set_t one;
	int err;

	CPU_ZERO(&one);
	CPU_SET(h->cpu[1], &one);
	pthread_attr_init(&attributes);
	pthread_attr_setaffinity_np(&attributes, sizeof(one), &one);
	pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attributes, first ? SCHED_FIFO : SCHED_OTHER);
	pthread_attr_setschedparam(&attributes, &priority);
	err = pthread_create(thread, &attributes, entry, h);
	pthread_attr_destroy(&attributes);
	return err;
}

/* Both threads, and all the tries; this thread's CPUs are its own again after. */
static json_t *with_threads(struct held *h)
{
	pthread_t moves, holds;
	bool moving, holding = false;
	json_t *reply = NULL;
	cpu_set_t before;
	int err;

	if (!two_cpus(h->cpu))
		return kst_errno(EOPNOTSUPP, "one CPU: nothing can be looked at while the other migrates");
	if (sched_getaffinity(0, sizeof(before), &before))
		return kst_errno(errno, "the affinity of a thread");
	err = start(h, &moves, mover, false);
	moving = !err;
	if (!err)
		err = start(h, &holds, holder, true);
	holding = !err;
	if (!err)
		err = kst_cpus_go_to(h->cpu[0]);
	reply = err ? kst_errno(err, "the threads that migrate and hold") : run(h);
	atomic_store(&h->stop, true);
	sem_post(&h->go);
	sem_post(&h->hold);
	if (moving)
		pthread_join(moves, NULL);
	if (holding)
		pthread_join(holds, NULL);
	sched_setaffinity(0, sizeof(before), &before);
	return reply;
}

static json_t *op_held(struct kst_subject *s, const json_t *args)
{
	uint64_t addr, count, page_size;
	struct held *h;
	const json_t *calls;
	json_t *reply = NULL;

	if (!kst_arg_range(args, "addr", 0, (1ull << 47) - 1, &addr, &reply) ||
	    !kst_arg_range(args, "count", 1, PAGES_MAX, &count, &reply) ||
	    !kst_arg_range_or(args, "page_size", SMALL, SMALL, 1ul << 30, &page_size, &reply) ||
	    !calls_arg(args, &calls, &reply))
		return reply;
	h = calloc(1, sizeof(*h));
	if (!h)
		abort();
	*h = (struct held){.addr = addr, .page_size = page_size, .count = count, .s = s, .calls = calls};
	sem_init(&h->go, 0, 0);
	sem_init(&h->ended, 0, 0);
	sem_init(&h->hold, 0, 0);
	sem_init(&h->done, 0, 0);
	h->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	h->behind = mmap(NULL, BEHIND * SMALL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (h->pagemap < 0 || h->behind == MAP_FAILED) {
		reply = kst_errno(errno, "pagemap or mmap");
	} else {
		madvise(h->behind, BEHIND * SMALL, MADV_NOHUGEPAGE); /* small pages; a kernel without huge ones refuses */
		for (uint64_t i = 0; i < count; i++)
			h->pages[i] = (void *)(uintptr_t)(addr + i * page_size);
		for (uint64_t i = 0; i < BEHIND; i++) {
			h->pages[count + i] = h->behind + i * SMALL;
			h->behind[i * SMALL] = 1;
		}
		reply = with_threads(h);
	}
	if (h->behind != MAP_FAILED)
		munmap(h->behind, BEHIND * SMALL);
	if (h->pagemap >= 0)
		close(h->pagemap);
	free(h);
	return reply;
}

const struct kst_op kst_held_ops[] = {{"held", op_held}, {NULL, NULL}};
