/* SPDX-License-Identifier: MIT */
/* loop.h - one loop that measures a cost: memory of its own, a userfaultfd if it is about one, a clock, histograms. */
#ifndef KST_LOOP_H
#define KST_LOOP_H

#include "hist.h"
#include "workload.h"

struct kst_loop {
	struct kst_mem mem;
	struct kst_track track;
	enum { KST_READ, KST_WRITE, KST_GUP, KST_GUP_WRITE } access;
	bool tsc, alone;
	char *source; /* a page of ordinary memory: what is copied from, and what `gup` reads into, `gup-write` from */
	uint64_t rounds;
	struct kst_hist *hist, *second, *overhead;
};

/*
 * Arguments `pages`, `rounds`, `kind`, `clock`, `access` if there (`gup`, `gup-write`: the kernel reads or writes the page
 * for us), and `mode` (WP or RWP) if the loop is `tracked`; memory written, overhead measured. The reply that says why not,
 * or NULL. kst_loop_free() in either case.
 */
json_t *kst_loop_init(struct kst_loop *l, const struct kst_subject *s, const json_t *args, bool tracked);
void kst_loop_free(struct kst_loop *l);
/* A userfaultfd for this loop's memory, registered. */
json_t *kst_loop_track(struct kst_loop *l, bool async);
/*
 * Takes away what would make the next sample differ from the last, which took `expected` ticks: work that the kernel put
 * off, half-full batches, and a timer tick that falls into one sample and not into the other.
 */
void kst_loop_settle(const struct kst_loop *l, uint64_t expected);
/* What settling takes to know: once, before there are subjects, since to ask changes what a process costs. */
void kst_settle_begin(void);
/* Accesses page number `i`. */
void kst_loop_access(const struct kst_loop *l, uint64_t i);
/* Accesses each page once, in order, and records what each access took. */
void kst_loop_touch(const struct kst_loop *l, struct kst_hist *hist);
/* {name: the loop's histogram, "overhead": ...} */
json_t *kst_loop_reply(const char *name, const struct kst_loop *l);

#endif
