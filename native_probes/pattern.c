/* SPDX-License-Identifier: MIT */
/* pattern.c - raw accesses to memory, and the patterns that prove it unchanged. */
#include "subject.h"

/* These touch what the request names, valid or not: nothing for a sanitizer to judge. */
#define RAW __attribute__((no_sanitize("address", "undefined")))

typedef uint64_t __attribute__((aligned(1), may_alias)) any_u64;

RAW uint64_t kst_load(uint64_t addr)
{
	return *(const volatile any_u64 *)(uintptr_t)addr;
}

RAW void kst_store(uint64_t addr, uint64_t value)
{
	*(volatile any_u64 *)(uintptr_t)addr = value;
}

/* splitmix64 (public domain, Sebastiano Vigna): spreads seed and page over all 64 bits. */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

#define STEP 0x9e3779b97f4a7c15u

RAW void kst_stamp_page(uint64_t addr, uint64_t page_size, uint64_t seed, uint64_t page)
{
	uint64_t word = mix(seed ^ mix(page));
	volatile any_u64 *at = (volatile any_u64 *)(uintptr_t)addr;

	for (uint64_t i = 0; i < page_size / 8; i++, word += STEP)
		at[i] = word;
}

RAW bool kst_verify_page(uint64_t addr, uint64_t page_size, uint64_t seed, uint64_t page)
{
	uint64_t word = mix(seed ^ mix(page));
	const volatile any_u64 *at = (const volatile any_u64 *)(uintptr_t)addr;

	for (uint64_t i = 0; i < page_size / 8; i++, word += STEP)
		if (at[i] != word)
			return false;
	return true;
}

RAW uint64_t kst_sum_page(uint64_t addr, uint64_t page_size)
{
	const volatile any_u64 *at = (const volatile any_u64 *)(uintptr_t)addr;
	uint64_t sum = page_size;

	for (uint64_t i = 0; i < page_size / 8; i++)
		sum = (sum ^ at[i]) * 0x100000001b3u ^ sum >> 29;
	return mix(sum);
}
