/* SPDX-License-Identifier: MIT */
/* workload.c - memory, userfaultfd, scan and random numbers of the native loops; see workload.h. */
#define _GNU_SOURCE
#include "workload.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TABLE_SPAN (2UL << 20) /* what one page table maps on x86-64; a multiple of any smaller one */

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

bool kst_loop_size(const json_t *args, uint64_t *pages, uint64_t *rounds, json_t **reply)
{
	if (!kst_arg_u64(args, "pages", pages, reply) || !kst_arg_u64(args, "rounds", rounds, reply))
		return false;
	if (*pages < 1 || *pages > KST_MAX_PAGES) {
		*reply = kst_error("pages: must be 1 to %d", KST_MAX_PAGES);
		return false;
	}
	if (*rounds < 1 || *rounds > KST_MAX_ROUNDS) {
		*reply = kst_error("rounds: must be 1 to %d", KST_MAX_ROUNDS);
		return false;
	}
	return true;
}

bool kst_arg_either(const json_t *args, const char *name, const char *a, const char *b, bool *is_b, json_t **reply)
{
	const char *value;

	if (!kst_arg_str(args, name, &value, reply))
		return false;
	*is_b = !strcmp(value, b);
	if (*is_b || !strcmp(value, a))
		return true;
	*reply = kst_error("%s: must be %s or %s", name, a, b);
	return false;
}

static json_t *map(struct kst_mem *mem, const char *kind, bool huge)
{
	int flags = MAP_FIXED | (strcmp(kind, "anon") ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
	char *at;

	if (strcmp(kind, "anon")) {
		mem->fd = memfd_create("kst-loop", MFD_CLOEXEC | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
		if (mem->fd < 0)
			return kst_errno(errno, "memfd_create");
		if (ftruncate(mem->fd, (off_t)mem->len))
			return kst_errno(errno, "ftruncate");
	}
	mem->room_len = mem->len + 2 * TABLE_SPAN;
	mem->room = mmap(NULL, mem->room_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem->room == MAP_FAILED)
		return kst_errno(errno, "mmap");
	at = (char *)(((uintptr_t)mem->room + TABLE_SPAN) & ~(TABLE_SPAN - 1));
	mem->addr = mmap(at, mem->len, PROT_READ | PROT_WRITE, flags, mem->fd, 0);
	return mem->addr == MAP_FAILED ? kst_errno(errno, "mmap") : NULL;
}

json_t *kst_mem_map(struct kst_mem *mem, const char *kind, uint64_t pages)
{
	bool huge = !strcmp(kind, "hugetlb");
	json_t *reply;

	*mem = (struct kst_mem){ .room = MAP_FAILED, .fd = -1, .pages = pages };
	if (strcmp(kind, "anon") && strcmp(kind, "shmem") && !huge)
		return kst_error("kind: must be anon, shmem or hugetlb");
	mem->page_size = huge ? 2UL << 20 : (size_t)sysconf(_SC_PAGESIZE);
	mem->len = mem->page_size * pages;
	reply = map(mem, kind, huge);
	if (reply) {
		kst_mem_unmap(mem);
		return reply;
	}
	if (!huge) /* refused by kernels without THP, which is as good */
		madvise(mem->addr, mem->len, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < pages; i++)
		*(volatile uint64_t *)(mem->addr + i * mem->page_size) = i + 1;
	return NULL;
}

void kst_mem_unmap(struct kst_mem *mem)
{
	if (mem->room && mem->room != MAP_FAILED)
		munmap(mem->room, mem->room_len);
	if (mem->len && mem->fd >= 0)
		close(mem->fd);
	*mem = (struct kst_mem){ .fd = -1 };
}

static int open_uffd(uint64_t *features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = *features };
	int err, fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -1;
	if (ioctl(fd, UFFDIO_API, &api)) {
		err = errno;
		close(fd);
		errno = err;
		return -1;
	}
	*features = api.features;
	return fd;
}

json_t *kst_track_open(struct kst_track *t, bool rwp, bool async, uint64_t features)
{
	static const struct {
		uint64_t bit;
		const char *name;
	} names[] = {
		{ UFFD_FEATURE_RWP, "UFFD_FEATURE_RWP" },
		{ UFFD_FEATURE_RWP_ASYNC, "UFFD_FEATURE_RWP_ASYNC" },
		{ UFFD_FEATURE_WP_ASYNC, "UFFD_FEATURE_WP_ASYNC" },
		{ UFFD_FEATURE_PAGEFAULT_FLAG_WP, "UFFD_FEATURE_PAGEFAULT_FLAG_WP" },
		{ UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "UFFD_FEATURE_WP_HUGETLBFS_SHMEM" },
	};
	uint64_t has = 0;

	t->rwp = rwp;
	if (rwp)
		features |= UFFD_FEATURE_RWP | (async ? UFFD_FEATURE_RWP_ASYNC : 0);
	else
		features |= UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
			    (async ? UFFD_FEATURE_WP_ASYNC : 0);
	t->uffd = open_uffd(&has);
	if (t->uffd < 0)
		return kst_errno(errno, "userfaultfd");
	close(t->uffd);
	t->uffd = -1;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].bit & features & ~has)
			return kst_errno(EOPNOTSUPP, names[i].name);
	if (features & ~has)
		return kst_errno(EOPNOTSUPP, "UFFDIO_API: a feature this loop needs");
	t->uffd = open_uffd(&features);
	return t->uffd < 0 ? kst_errno(errno, "UFFDIO_API") : NULL;
}

int kst_track_register(const struct kst_track *t, const struct kst_mem *mem, uint64_t modes)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)mem->addr, .len = mem->len },
		.mode = modes | (t->rwp ? UFFDIO_REGISTER_MODE_RWP : UFFDIO_REGISTER_MODE_WP),
	};

	return ioctl(t->uffd, UFFDIO_REGISTER, &reg) ? errno : 0;
}

int kst_track_protect(const struct kst_track *t, void *addr, size_t len, bool on)
{
	struct uffdio_range range = { .start = (uintptr_t)addr, .len = len };
	struct uffdio_rwprotect rwp = { .range = range, .mode = on ? UFFDIO_RWPROTECT_MODE_RWP : 0 };
	struct uffdio_writeprotect wp = { .range = range, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0 };

	if (t->lie && on)
		return 0;
	if (t->slow && !on)
		for (uint64_t end = kst_now_ns() + KST_SLOW_NS; kst_now_ns() < end;)
			;
	if (t->rwp)
		return ioctl(t->uffd, UFFDIO_RWPROTECT, &rwp) ? errno : 0;
	return ioctl(t->uffd, UFFDIO_WRITEPROTECT, &wp) ? errno : 0;
}

int kst_track_set_async(const struct kst_track *t, bool on)
{
	struct uffdio_set_mode mode = {
		.enable = on ? UFFD_FEATURE_RWP_ASYNC : 0,
		.disable = on ? 0 : UFFD_FEATURE_RWP_ASYNC,
	};

	return ioctl(t->uffd, UFFDIO_SET_MODE, &mode) ? errno : 0;
}

int kst_track_scan(const struct kst_track *t, const struct kst_mem *mem, int pagemap, void *vec, size_t *n)
{
	uint64_t category = t->rwp ? PAGE_IS_ACCESSED : PAGE_IS_WRITTEN;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)mem->addr,
		.end = (uintptr_t)mem->addr + mem->len,
		.vec = (uintptr_t)vec,
		.vec_len = mem->pages,
		.category_mask = category,
		.return_mask = category,
	};
	long found = ioctl(pagemap, PAGEMAP_SCAN, &arg);

	if (found < 0)
		return errno;
	if ((uint64_t)found > mem->pages || arg.walk_end != arg.end)
		return EPROTO; /* the kernel broke the contract of the call: vec has room for every page */
	*n = (size_t)found;
	return 0;
}

uint64_t kst_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

uint64_t kst_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}
