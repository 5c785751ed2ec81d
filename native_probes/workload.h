/* SPDX-License-Identifier: MIT */
/*
 * workload.h - what the native loops share: memory, one protecting userfaultfd, clocks, random numbers.
 *
 * The loops own all they use (they know nothing of the subject's handles) and give it back before they return.
 */
#ifndef KST_WORKLOAD_H
#define KST_WORKLOAD_H

#include "kst.h"

#include <pthread.h>
#include <time.h>

#define KST_MAX_PAGES 262144
#define KST_MAX_ROUNDS 1000000
#define KST_TABLE_SPAN (2UL << 20) /* bytes; what one page table maps on x86-64; a multiple of any smaller one */
#define KST_SLOW_NS 2000

/*
 * Memory of `pages` pages of `page_size` bytes; every page is written once (`zero`: read once). fd is -1 if it is
 * anonymous.
 * It begins at a page table's first entry and lies alone in `room`, so that its place in the address space, which is
 * random, changes neither how many page tables a call walks nor which mappings are merged.
 */
struct kst_mem {
	char *room;
	size_t room_len;
	char *addr;
	size_t len, page_size;
	uint64_t pages;
	int fd;
	bool thp, zero;
};

/* One userfaultfd that protects: with RWP, or with WP. */
struct kst_track {
	int uffd;
	bool rwp;
	bool lie;  /* control skip_protect: protecting succeeds and does nothing */
	bool slow; /* control slow_resolve: resolving takes KST_SLOW_NS longer */
};

/* `pages` (1..KST_MAX_PAGES) and `rounds` (1..KST_MAX_ROUNDS), out of the arguments. */
bool kst_loop_size(const json_t *args, uint64_t *pages, uint64_t *rounds, json_t **reply);
/* A string argument that must be `a` or `b`; *is_b says which it was. */
bool kst_arg_either(const json_t *args, const char *name, const char *a, const char *b, bool *is_b, json_t **reply);

/*
 * Maps and writes memory: anon and shmem (memfd, shared) without THP, thp (anonymous, each page a huge one), shmem_thp
 * (memfd, shared, the same; either EOPNOTSUPP if none is to be had), hugetlb (2 MiB memfd, shared), zero (anonymous,
 * only read: each page is the zero page, so a range may be larger than the machine's memory). NULL, or why not.
 */
json_t *kst_mem_map(struct kst_mem *mem, const char *kind, uint64_t pages);
int kst_mem_map_at(const struct kst_mem *mem, char *at); /* the same memory's mapping, made anew at `at`; 0 or an errno */
/* No page is mapped: anonymous memory has none then, the others keep their contents. 0 or an errno. */
int kst_mem_unmap_pages(const struct kst_mem *mem);
int kst_mem_drop(const struct kst_mem *mem); /* there is no page any more; 0 or an errno */
void kst_mem_touch(const struct kst_mem *mem, bool write); /* one access to each page, in order */
/*
 * Touches each page. Huge ones are mapped as such then, which a round may have undone: those of thp are new ones, those
 * of shmem_thp are mapped anew. 0 or an errno.
 */
int kst_mem_renew(const struct kst_mem *mem);
/* kst_mem_renew() makes the mapping anew, so that it is registered no more. */
static inline bool kst_mem_remaps(const struct kst_mem *mem) { return mem->thp && mem->fd >= 0; }
void kst_mem_unmap(struct kst_mem *mem); /* a zeroed one is allowed */

/* A userfaultfd that has these features, or EOPNOTSUPP with the name of what the kernel lacks. */
json_t *kst_uffd_open(int *uffd, uint64_t features);
int kst_uffd_register(int uffd, const void *addr, size_t len, uint64_t modes); /* 0 or an errno */
/*
 * Opens a userfaultfd with what `rwp`, `async` and `features` ask for, after a throw-away one told what the kernel
 * has: what is missing is the errno reply EOPNOTSUPP with its names. NULL when all went well.
 */
json_t *kst_track_open(struct kst_track *t, bool rwp, bool async, uint64_t features);
/* These return 0 or an errno. `modes` are registered besides WP or RWP. */
int kst_track_register(const struct kst_track *t, const struct kst_mem *mem, uint64_t modes);
int kst_track_renew(const struct kst_track *t, const struct kst_mem *mem); /* kst_mem_renew(), and registered as before */
int kst_track_protect(const struct kst_track *t, void *addr, size_t len, bool on);
int kst_track_set_async(const struct kst_track *t, bool on); /* UFFDIO_SET_MODE: RWP only */
/*
 * PAGEMAP_SCAN for what was touched since it was protected: PAGE_IS_ACCESSED with RWP, PAGE_IS_WRITTEN with WP.
 * `vec` has room for `mem->pages` struct page_region; *n is how many were found.
 */
int kst_track_scan(const struct kst_track *t, const struct kst_mem *mem, int pagemap, void *vec, size_t *n);

int kst_write_text(const char *path, const char *text); /* to a file of /proc or /sys; 0 or an errno */
uint64_t kst_now_ns(void); /* CLOCK_MONOTONIC */

/* splitmix64 (Steele, Lea, Flood 2014): the next number of the sequence in *state. */
uint64_t kst_random(uint64_t *state);

/*
 * The clock of a measurement. The fences keep the measured access between its two readings; with the time stamp
 * counter nothing else runs between them, so under QEMU -icount the difference is a number of instructions.
 */
static inline uint64_t kst_ticks(bool tsc)
{
	struct timespec ts;

#ifdef __x86_64__
	if (tsc) {
		uint32_t lo, hi;

		__asm__ volatile("lfence\n\trdtsc\n\tlfence" : "=a"(lo), "=d"(hi) : : "memory");
		return (uint64_t)hi << 32 | lo;
	}
#else
	(void)tsc;
#endif
	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

/* Two instructions a turn and nothing else. Under QEMU -icount far quicker than to read the clock, which leaves QEMU's code. */
static inline void kst_spin(uint64_t turns)
{
#ifdef __x86_64__
	__asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(turns) : : "cc");
#else
	(void)turns;
#endif
}

#endif
