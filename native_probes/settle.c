/* SPDX-License-Identifier: MIT */
/*
 * settle.c - what the kernel does now and then is done before a sample begins, and far away while it runs.
 *
 * What a path costs depends on what the kernel has put off, on half-full batches, and on when its clocks tick. Each of
 * these was seen in figures of one kernel on two machines, by the functions in which they differ (docs/latency.md).
 */
#define _GNU_SOURCE
#include "loop.h"
#include "own.h"

#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Pages on their way to the LRU lists go in batches, and who fills a batch pays for all of it: begin with an empty one. */
static void drain_lru(const struct kst_loop *l)
{
	madvise(l->mem.room, 4096, MADV_COLD); /* there is no page; mm/madvise.c drains first, whatever it then finds */
}

/* Turns between two readings of the clock, which take longer than INTERRUPT only if an interrupt came between them. */
#define SPIN 100
#define INTERRUPT 500
/* Instructions, or nanoseconds of a guest that counts them: a timer tick comes more often than this. */
#define TICK_APART 20000000
/* Shorter samples are hit by one so seldom that their median is not. */
#define LONG 100000

/* Returns when the timer tick has just been: the next is as far away as can be, and a long sample always has as many. */
static void await_tick(const struct kst_loop *l)
{
	uint64_t first = kst_ticks(l->tsc), last = first, now;

	for (; last - first < TICK_APART; last = now) {
		kst_spin(SPIN);
		now = kst_ticks(l->tsc);
		if (now - last > INTERRUPT)
			return;
	}
}

/* How ticks become the scheduler's clock, ns: zero + (ticks * mult >> shift); mult is 0 if that is not told. */
static struct {
	uint64_t zero, mult, shift;
} sched_clock;

/* The scheduler ages its averages once in such a period of its clock, at the next switch or tick (kernel/sched/pelt.c). */
#define PERIOD (1ULL << 20)
#define JUST_BEGUN 2000

/* Returns when such a period has just begun: a sample that is shorter pays for its first switch, and for no other. */
static void await_period(const struct kst_loop *l)
{
	uint64_t first = kst_ticks(l->tsc), now = first;

	for (; sched_clock.mult && now - first < 4 * PERIOD; now = kst_ticks(l->tsc)) {
		uint64_t scaled = (uint64_t)((unsigned __int128)now * sched_clock.mult >> sched_clock.shift);

		if ((sched_clock.zero + scaled) % PERIOD < JUST_BEGUN)
			return;
	}
}

/*
 * Lets the CPU be idle until what the kernel puts off is done, and not in a sample: where instructions are counted an
 * idle CPU's time passes at once. Every two seconds, but not before the CPU wakes for another reason, a worker flushes
 * the memory cgroups' counters (stats_flush_dwork, mm/memcontrol.c), and who then is the first to count pays more. It
 * and the others (RCU callbacks, kworkers) run in the ticks that follow.
 */
static void let_be_idle(void)
{
	const struct timespec until_due = { .tv_sec = 2, .tv_nsec = 100000000 }, until_done = { .tv_nsec = TICK_APART };

	clock_nanosleep(CLOCK_MONOTONIC, 0, &until_due, NULL);
	clock_nanosleep(CLOCK_MONOTONIC, 0, &until_done, NULL);
}

/* The kernel tells all who may use perf (struct perf_event_mmap_page, include/uapi/linux/perf_event.h). */
static void learn_sched_clock(void)
{
	struct perf_event_attr nothing = { .type = PERF_TYPE_SOFTWARE,
					   .size = sizeof(nothing),
					   .config = PERF_COUNT_SW_DUMMY };
	int fd = (int)syscall(SYS_perf_event_open, &nothing, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	struct perf_event_mmap_page *told = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);

	if (told != MAP_FAILED) {
		if (told->cap_user_time_zero) {
			sched_clock.zero = told->time_zero;
			sched_clock.mult = told->time_mult;
			sched_clock.shift = told->time_shift;
		}
		munmap(told, 4096);
	}
	if (fd >= 0)
		close(fd);
}

void kst_settle_begin(void)
{
	learn_sched_clock();
	let_be_idle(); /* for a second after the last event of perf's each switch costs more (perf_sched_delayed()) */
}

/* Counters of pages are kept per CPU up to a threshold, and who comes to it pays for adding them up: from naught. */
static void fold_counters(void)
{
	kst_write_text("/proc/sys/vm/stat_refresh", "1"); /* only root may; without it a few instructions more or less */
}

void kst_loop_settle(const struct kst_loop *l, uint64_t expected)
{
	drain_lru(l);
	if (!l->tsc)
		return;
	let_be_idle();
	fold_counters();
	if (expected > LONG) {
		await_tick(l);
		await_period(l);
	}
}
