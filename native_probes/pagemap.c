/* SPDX-License-Identifier: MIT */
/* pagemap.c - what the page tables say: raw entries, and the PAGEMAP_SCAN ioctl. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "subject.h"

#define ENTRIES_MAX 65536
#define VEC_MAX 65536
#define PM_PFN_BITS ((1ull << 55) - 1)
#define PM_UFFD (1ull << 57)
#define PM_SWAP (1ull << 62)
#define PM_PRESENT (1ull << 63)

/* 0 or an errno. Opened once per process: it shows the memory of whoever opened it. */
static int open_pagemap(struct kst_subject *s)
{
	if (s->pagemap_fd < 0)
		s->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return s->pagemap_fd < 0 ? errno : 0;
}

/* The entries that were asked for, to be given to free(); NULL, with *reply set, if they are not to be had. */
static uint64_t *read_entries(struct kst_subject *s, const json_t *args, size_t *count, json_t **reply)
{
	bool inverted = kst_control(s, "invert_marker");
	uint64_t addr, pages, *entries;
	ssize_t n;

	if (!kst_arg_range(args, "addr", 0, (1ull << 47) - 1, &addr, reply) ||
	    !kst_arg_range(args, "pages", 1, ENTRIES_MAX, &pages, reply))
		return NULL;
	if (open_pagemap(s)) {
		*reply = kst_errno(errno, "open of /proc/self/pagemap");
		return NULL;
	}
	entries = calloc(pages, sizeof(*entries));
	if (!entries)
		abort();
	n = pread(s->pagemap_fd, entries, pages * sizeof(*entries), (off_t)(addr / 4096 * sizeof(*entries)));
	if (n < 0) {
		*reply = kst_errno(errno, "read of /proc/self/pagemap");
		free(entries);
		return NULL;
	}
	*count = (size_t)n / sizeof(*entries);
	for (size_t i = 0; i < *count; i++) {
		if (inverted)
			entries[i] ^= PM_UFFD;
		if (s->untrapped && addr + i * 4096 - s->untrapped < s->untrapped_len)
			entries[i] |= PM_UFFD;
	}
	return entries;
}

static json_t *op_pagemap(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL, *list;
	uint64_t *entries;
	char hex[17];
	size_t count;

	entries = read_entries(s, args, &count, &reply);
	if (!entries)
		return reply;
	list = json_array();
	for (size_t i = 0; i < count; i++) {
		uint64_t entry = entries[i] & PM_SWAP ? entries[i] : entries[i] & ~PM_PFN_BITS;

		snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)entry);
		json_array_append_new(list, json_string(hex));
	}
	free(entries);
	return kst_ok(json_pack("{s:o}", "entries", list));
}

/* Only the markers, of a huge page in one piece: a tenth of the time that its entries take to be written and read. */
static json_t *op_markers(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL, *list;
	size_t count, first = 0;
	uint64_t *entries;

	entries = read_entries(s, args, &count, &reply);
	if (!entries)
		return reply;
	list = json_array();
	for (size_t i = 0; i <= count; i++) {
		bool marked = i < count && (entries[i] & PM_UFFD), before = i > 0 && (entries[i - 1] & PM_UFFD);

		if (marked && !before)
			first = i;
		if (before && !marked)
			json_array_append_new(list, json_pack("[I, I]", (json_int_t)first, (json_int_t)i));
	}
	free(entries);
	return kst_ok(json_pack("{s:I, s:o}", "pages", (json_int_t)count, "ranges", list));
}

/* 0 if there is none to be had. */
static uint64_t entry_at(struct kst_subject *s, uint64_t addr)
{
	uint64_t entry;

	if (open_pagemap(s) ||
	    pread(s->pagemap_fd, &entry, sizeof(entry), (off_t)(addr / 4096 * sizeof(entry))) != sizeof(entry))
		return 0;
	return entry;
}

uint64_t kst_frame_at(struct kst_subject *s, uint64_t addr)
{
	uint64_t entry = entry_at(s, addr);

	return entry & PM_PRESENT ? entry & PM_PFN_BITS : 0;
}

bool kst_marked_at(struct kst_subject *s, uint64_t addr)
{
	return entry_at(s, addr) & PM_UFFD;
}

static bool frames_args(struct kst_subject *s, const json_t *args, uint64_t *addr, uint64_t *pages, json_t **reply)
{
	int err;

	if (!kst_arg_range(args, "addr", 0, (1ull << 47) - 1, addr, reply) ||
	    !kst_arg_range(args, "pages", 1, ENTRIES_MAX, pages, reply))
		return false;
	err = open_pagemap(s);
	if (err)
		*reply = kst_errno(err, "open of /proc/self/pagemap");
	return !err;
}

static json_t *op_frames(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL, *list;
	uint64_t addr, pages;

	if (!frames_args(s, args, &addr, &pages, &reply))
		return reply;
	list = json_array();
	for (uint64_t i = 0; i < pages; i++)
		json_array_append_new(list, json_integer((json_int_t)kst_frame_at(s, addr + i * 4096)));
	return kst_ok(json_pack("{s:o}", "frames", list));
}

/* The /proc/kpageflags word of the frame behind each page (KPF_*, linux/kernel-page-flags.h); 0 where there is none. */
static json_t *op_page_flags(struct kst_subject *s, const json_t *args)
{
	uint64_t addr, pages, frame, flags;
	json_t *reply = NULL, *list;
	int file;

	if (!frames_args(s, args, &addr, &pages, &reply))
		return reply;
	file = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return kst_errno(errno, "open of /proc/kpageflags");
	list = json_array();
	for (uint64_t i = 0; i < pages; i++) {
		flags = 0;
		frame = kst_frame_at(s, addr + i * 4096);
		if (frame && pread(file, &flags, sizeof(flags), (off_t)(frame * sizeof(flags))) < 0)
			flags = 0;
		json_array_append_new(list, json_integer((json_int_t)(flags & INT64_MAX)));
	}
	close(file);
	return kst_ok(json_pack("{s:o}", "flags", list));
}

static json_t *describe(const struct kst_subject *s, const struct page_region *vec, size_t count)
{
	uint64_t flip = kst_control(s, "wrong_category") ? PAGE_IS_ACCESSED | PAGE_IS_WRITTEN : 0;
	bool hide = kst_control(s, "hide_accessed");
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++) {
		uint64_t end = vec[i].end;

		if (hide && (vec[i].categories & PAGE_IS_ACCESSED))
			end -= kst_page_size_at(s, vec[i].start);
		if (end > vec[i].start)
			json_array_append_new(list, json_pack("[I, I, I]", (json_int_t)vec[i].start, (json_int_t)end,
							      (json_int_t)(vec[i].categories ^ flip)));
	}
	return list;
}

static bool scan_args(const json_t *args, struct pm_scan_arg *scan, json_t **reply)
{
	const struct {
		const char *name;
		uint64_t dflt;
		__u64 *field;
	} table[] = {
		{"flags", 0, &scan->flags},
		{"category_inverted", 0, &scan->category_inverted},
		{"category_mask", 0, &scan->category_mask},
		{"category_anyof_mask", 0, &scan->category_anyof_mask},
		{"return_mask", 0, &scan->return_mask},
		{"max_pages", 0, &scan->max_pages},
	};
	uint64_t addr, len, vec_len, value;

	if (!kst_arg_u64(args, "addr", &addr, reply) || !kst_arg_u64(args, "len", &len, reply) ||
	    !kst_arg_range_or(args, "vec_len", 256, 0, VEC_MAX, &vec_len, reply))
		return false;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (!kst_arg_u64_or(args, table[i].name, table[i].dflt, &value, reply))
			return false;
		*table[i].field = value;
	}
	scan->size = sizeof(*scan);
	scan->start = addr;
	scan->end = addr + len;
	scan->vec_len = vec_len;
	return true;
}

static json_t *op_pagemap_scan(struct kst_subject *s, const json_t *args)
{
	struct pm_scan_arg scan = {0};
	struct page_region *vec = NULL;
	json_t *reply = NULL;
	int n, err;

	if (!scan_args(args, &scan, &reply))
		return reply;
	err = open_pagemap(s);
	if (err)
		return kst_errno(err, "open of /proc/self/pagemap");
	if (scan.vec_len) {
		vec = calloc(scan.vec_len, sizeof(*vec));
		if (!vec)
			abort();
		scan.vec = (uint64_t)(uintptr_t)vec;
	}
	n = ioctl(s->pagemap_fd, PAGEMAP_SCAN, &scan);
	if (n < 0)
		reply = kst_errno(errno, "PAGEMAP_SCAN");
	else
		reply = kst_ok(json_pack("{s:I, s:o}", "walk_end", (json_int_t)scan.walk_end, "regions",
					 describe(s, vec, vec ? (size_t)n : 0)));
	free(vec);
	return reply;
}

const struct kst_op kst_pagemap_ops[] = {
	{"pagemap", op_pagemap}, {"markers", op_markers}, {"pagemap_scan", op_pagemap_scan}, {"page_flags", op_page_flags},
	{"frames", op_frames}, {NULL, NULL}};
