/* SPDX-License-Identifier: MIT */
/* hist.c - log-linear histogram of ticks; the layout is HdrHistogram's (hdrhistogram.org) with 2^11 buckets an octave. */
#define _GNU_SOURCE
#include "hist.h"
#include "own.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define EXACT_BITS 12
#define HALF (1U << (EXACT_BITS - 1))
#define MAX_BITS 40
#define BUCKETS ((1U << EXACT_BITS) + (MAX_BITS - EXACT_BITS) * HALF)

struct kst_hist {
	uint64_t counts[BUCKETS];
	uint64_t kept, raw[KST_HIST_KEPT]; /* the first samples as they are */
};

struct kst_hist *kst_hist_new(void)
{
	/* Populated at once: a page fault while recording would disturb the next measurement. */
	void *p = kst_own_memory(sizeof(struct kst_hist));

	return p == MAP_FAILED ? NULL : p;
}

void kst_hist_free(struct kst_hist *h)
{
	if (h)
		munmap(h, sizeof(*h));
}

void kst_hist_clear(struct kst_hist *h)
{
	memset(h, 0, sizeof(*h));
}

void kst_hist_add(struct kst_hist *h, uint64_t ticks)
{
	unsigned int octave;

	if (h->kept < KST_HIST_KEPT)
		h->raw[h->kept++] = ticks;
	if (ticks < 1U << EXACT_BITS) {
		h->counts[ticks]++;
		return;
	}
	octave = 63 - (unsigned int)__builtin_clzll(ticks);
	if (octave >= MAX_BITS) {
		h->counts[BUCKETS - 1]++;
		return;
	}
	h->counts[(1U << EXACT_BITS) + (octave - EXACT_BITS) * HALF + (ticks >> (octave - EXACT_BITS + 1)) - HALF]++;
}

void kst_hist_merge(struct kst_hist *into, const struct kst_hist *from)
{
	for (unsigned int i = 0; i < BUCKETS; i++)
		into->counts[i] += from->counts[i];
}

static uint64_t bucket_value(unsigned int bucket)
{
	unsigned int shift, above;

	if (bucket < 1U << EXACT_BITS)
		return bucket;
	above = bucket - (1U << EXACT_BITS);
	shift = above / HALF + 1;
	return ((uint64_t)(HALF + above % HALF) << shift) + (1ULL << (shift - 1));
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void append(json_t *counts, uint64_t value, uint64_t count)
{
	json_array_append_new(counts, json_pack("[I,I]", (json_int_t)value, (json_int_t)count));
}

static void append_raw(json_t *counts, const struct kst_hist *h)
{
	uint64_t sorted[KST_HIST_KEPT], same;

	memcpy(sorted, h->raw, sizeof(sorted));
	qsort(sorted, h->kept, sizeof(*sorted), ascending);
	for (uint64_t i = 0; i < h->kept; i += same) {
		for (same = 1; i + same < h->kept && sorted[i + same] == sorted[i];)
			same++;
		append(counts, sorted[i], same);
	}
}

json_t *kst_hist_json(const struct kst_hist *h)
{
	json_t *counts = json_array();
	uint64_t samples = 0;

	for (unsigned int i = 0; i < BUCKETS; i++)
		samples += h->counts[i];
	if (samples == h->kept)
		append_raw(counts, h);
	else
		for (unsigned int i = 0; i < BUCKETS; i++)
			if (h->counts[i])
				append(counts, bucket_value(i), h->counts[i]);
	return json_pack("{s:s, s:o}", "unit", "ticks", "counts", counts);
}
