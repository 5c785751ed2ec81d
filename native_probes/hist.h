/* SPDX-License-Identifier: MIT */
/*
 * hist.h - log-linear histogram of ticks.
 *
 * Up to KST_HIST_KEPT samples are told as they are: one instruction more is seen in a call of a million. Of more samples
 * every value below 2^12 has a bucket of its own; above, each octave has 2048 buckets and a value is told as the
 * middle of its bucket, so it is off by less than 1/2048. Values of 2^40 and more are counted in the last bucket; so
 * there are fewer than 2^16 buckets, and a reply stays far below its bound.
 */
#ifndef KST_HIST_H
#define KST_HIST_H

#include <jansson.h>
#include <stdint.h>

#define KST_HIST_KEPT 1024

struct kst_hist;

/* A histogram whose memory is already faulted in; NULL with errno set when there is none. */
struct kst_hist *kst_hist_new(void);
void kst_hist_free(struct kst_hist *h); /* NULL is allowed */
void kst_hist_clear(struct kst_hist *h);
void kst_hist_add(struct kst_hist *h, uint64_t ticks);
void kst_hist_merge(struct kst_hist *into, const struct kst_hist *from);
/* {"unit": "ticks", "counts": [[value, count], ...]}, sorted by value; a new reference. */
json_t *kst_hist_json(const struct kst_hist *h);

#endif
