/* SPDX-License-Identifier: MIT */
/* region.c - memory of each kind the kernel treats in its own way. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "subject.h"

#define SMALL 4096ull
#define HUGE (2ull << 20)
#define HUGE_2MB_SHIFT (21 << 26) /* MAP_HUGE_2MB and MFD_HUGE_2MB */
#define BYTES_MAX (1ull << 40)
#define ALIGN_MAX (1ull << 30)
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08 /* include/uapi/linux/mman.h, since 6.11 */
#endif

/* A nameless file on the first tmpfs there is, or -1. */
static int open_tmpfs(void)
{
	static const char *const places[] = {"/dev/shm", "/tmp", "/run"};
	struct statfs fs;

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		int fd = open(places[i], O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

		if (fd < 0)
			continue;
		if (!fstatfs(fd, &fs) && fs.f_type == TMPFS_MAGIC)
			return fd;
		close(fd);
	}
	errno = ENODEV;
	return -1;
}

static int no_file(void)
{
	return -1;
}

static int open_shmem(void)
{
	return memfd_create("kst", MFD_CLOEXEC);
}

static int open_hugetlb(void)
{
	return memfd_create("kst", MFD_CLOEXEC | MFD_HUGETLB | HUGE_2MB_SHIFT);
}

static const struct kind {
	const char *name;
	int (*open)(void);
	int map_flags;
	uint64_t page_size;
	bool read_only; /* the file is opened for reading: a shared mapping of it can never be writable (no VM_MAYWRITE) */
} kinds[] = {
	{"anon", no_file, MAP_PRIVATE | MAP_ANONYMOUS, SMALL, false},
	{"anon_shared", no_file, MAP_SHARED | MAP_ANONYMOUS, SMALL, false},
	{"shmem", open_shmem, MAP_SHARED, SMALL, false},
	{"shmem_private", open_shmem, MAP_PRIVATE, SMALL, false},
	{"shmem_read_only", open_shmem, MAP_SHARED, SMALL, true},
	{"tmpfs", open_tmpfs, MAP_SHARED, SMALL, false},
	{"droppable", no_file, MAP_DROPPABLE | MAP_ANONYMOUS, SMALL, false}, /* no kind that userfaultfd serves */
	{"hugetlb", open_hugetlb, MAP_SHARED, HUGE, false},
	{"hugetlb_private", no_file, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | HUGE_2MB_SHIFT, HUGE, false},
	{NULL, NULL, 0, 0, false},
};

/* The same file, opened for reading; `fd` is closed. -1 with errno set if that fails. */
static int reopen_for_reading(int fd)
{
	char path[64];
	int err, other;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	other = open(path, O_RDONLY | O_CLOEXEC);
	err = errno;
	close(fd);
	errno = err;
	return other;
}

/*
 * Maps between two inaccessible guards, aligned to `align` bytes: no neighbour
 * merges with it, and an access beyond its ends raises SIGSEGV.
 */
static bool map_guarded(struct kst_region *region, uint64_t align, int prot, int flags)
{
	uint64_t total = region->len + align + 2 * HUGE, start, from, to;
	void *space = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int err;

	if (space == MAP_FAILED)
		return false;
	start = (uint64_t)(uintptr_t)space;
	region->addr = (start + HUGE + align - 1) & ~(align - 1);
	region->guard = region->page_size;
	from = region->addr - region->guard;
	to = region->addr + region->len + region->guard;
	if (from > start)
		munmap(space, from - start);
	if (start + total > to)
		munmap((void *)(uintptr_t)to, start + total - to);
	if (mmap((void *)(uintptr_t)region->addr, region->len, prot, flags | MAP_FIXED, region->fd, 0) != MAP_FAILED)
		return true;
	err = errno;
	munmap((void *)(uintptr_t)from, to - from);
	errno = err;
	return false;
}

static json_t *describe(struct kst_subject *s, struct kst_region *region)
{
	size_t handle = kst_table_add(&s->regions, region);

	return kst_ok(json_pack("{s:I, s:I, s:I, s:I}", "region", (json_int_t)handle, "addr", (json_int_t)region->addr,
				"len", (json_int_t)region->len, "page_size", (json_int_t)region->page_size));
}

/* Maps `len` bytes of `fd` (which the region owns from here on, also on failure). */
static struct kst_region *map_region(int fd, uint64_t len, uint64_t page_size, uint64_t align, int prot, int flags)
{
	struct kst_region *region = malloc(sizeof(*region));
	int err;

	if (!region)
		abort();
	*region = (struct kst_region){.len = len, .page_size = page_size, .fd = fd};
	if (map_guarded(region, align, prot, flags))
		return region;
	err = errno;
	if (fd >= 0)
		close(fd);
	free(region);
	errno = err;
	return NULL;
}

static json_t *set_thp(struct kst_subject *s, struct kst_region *region, const char *thp)
{
	bool always = !strcmp(thp, "always");
	int err = 0;

	if (region->page_size == SMALL &&
	    madvise((void *)(uintptr_t)region->addr, region->len, always ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		err = errno;
	if (!err || !always) /* a kernel without THP refuses both; only one of them matters */
		return describe(s, region);
	kst_region_free(region);
	return kst_errno(err, "madvise MADV_HUGEPAGE");
}

static json_t *op_region(struct kst_subject *s, const json_t *args)
{
	const struct kind *kind = kinds;
	struct kst_region *region;
	const char *name, *thp;
	uint64_t pages, prot, align;
	json_t *reply = NULL;
	bool reserve;
	int fd;

	if (!kst_arg_str(args, "kind", &name, &reply) || !kst_arg_str_or(args, "thp", "never", &thp, &reply) ||
	    !kst_arg_range_or(args, "prot", PROT_READ | PROT_WRITE, 0, 7, &prot, &reply) ||
	    !kst_arg_range_or(args, "align", HUGE, HUGE, ALIGN_MAX, &align, &reply) ||
	    !kst_arg_bool_or(args, "reserve", true, &reserve, &reply))
		return reply;
	if (align & (align - 1))
		return kst_error("argument align: must be a power of two");
	while (kind->name && strcmp(kind->name, name))
		kind++;
	if (!kind->name)
		return kst_error("argument kind: no kind of region is called %s", name);
	if (strcmp(thp, "never") && strcmp(thp, "always"))
		return kst_error("argument thp: %s is neither never nor always", thp);
	if (!kst_arg_range(args, "pages", 1, BYTES_MAX / kind->page_size, &pages, &reply))
		return reply;
	fd = kind->open();
	if (fd < 0 && !(kind->map_flags & MAP_ANONYMOUS))
		return kst_errno(errno, "opening the region's file");
	if (fd >= 0 && ftruncate(fd, (off_t)(pages * kind->page_size))) {
		int err = errno;

		close(fd);
		return kst_errno(err, "ftruncate");
	}
	if (kind->read_only) {
		fd = reopen_for_reading(fd);
		if (fd < 0)
			return kst_errno(errno, "opening the region's file for reading");
	}
	region = map_region(fd, pages * kind->page_size, kind->page_size, align, (int)prot,
			    kind->map_flags | (reserve ? 0 : MAP_NORESERVE));
	if (!region)
		return kst_errno(errno, "mmap");
	return set_thp(s, region, thp);
}

static json_t *op_alias(struct kst_subject *s, const json_t *args)
{
	struct kst_region *region, *alias;
	json_t *reply = NULL;
	int fd;

	region = kst_table_arg(&s->regions, args, "region", &reply);
	if (!region)
		return reply;
	if (region->fd < 0)
		return kst_error("argument region: this kind has no file behind it to map again");
	fd = fcntl(region->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return kst_errno(errno, "dup");
	alias = map_region(fd, region->len, region->page_size, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED);
	return alias ? describe(s, alias) : kst_errno(errno, "mmap");
}

void kst_region_free(struct kst_region *region)
{
	munmap((void *)(uintptr_t)(region->addr - region->guard), region->len + 2 * region->guard);
	if (region->fd >= 0)
		close(region->fd);
	free(region);
}

static json_t *op_unmap(struct kst_subject *s, const json_t *args)
{
	struct kst_drain *drain;
	struct kst_region *region;
	json_t *reply = NULL;

	region = kst_table_arg(&s->regions, args, "region", &reply);
	if (!region)
		return reply;
	kst_table_forget(&s->regions, region);
	drain = kst_drain_begin(s);
	kst_region_free(region);
	kst_drain_end(drain);
	return kst_ok(NULL);
}

static json_t *op_punch_hole(struct kst_subject *s, const json_t *args)
{
	struct kst_region *region;
	uint64_t offset, len;
	json_t *reply = NULL;

	region = kst_table_arg(&s->regions, args, "region", &reply);
	if (!region || !kst_arg_range(args, "offset", 0, BYTES_MAX, &offset, &reply) ||
	    !kst_arg_range(args, "len", 0, BYTES_MAX, &len, &reply))
		return reply;
	if (region->fd < 0)
		return kst_error("argument region: this kind has no file behind it to punch a hole into");
	if (fallocate(region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len))
		return kst_errno(errno, "fallocate FALLOC_FL_PUNCH_HOLE");
	return kst_ok(NULL);
}

const struct kst_region *kst_region_at(const struct kst_subject *s, uint64_t addr)
{
	for (size_t i = 0; i < s->regions.count; i++) {
		const struct kst_region *region = s->regions.items[i];

		if (region && addr >= region->addr && addr - region->addr < region->len)
			return region;
	}
	return NULL;
}

uint64_t kst_page_size_at(const struct kst_subject *s, uint64_t addr)
{
	const struct kst_region *region = kst_region_at(s, addr);

	return region ? region->page_size : SMALL;
}

const struct kst_op kst_region_ops[] = {
	{"region", op_region},	       {"alias", op_alias}, {"unmap", op_unmap},
	{"punch_hole", op_punch_hole}, {NULL, NULL},
};
