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

#define HUGE (2UL << 20)

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

int kst_mem_map_at(const struct kst_mem *mem, char *at)
{
	int flags = MAP_FIXED | (mem->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | (mem->zero ? MAP_NORESERVE : 0);

	if (mmap(at, mem->len, PROT_READ | PROT_WRITE, flags, mem->fd, 0) == MAP_FAILED)
		return errno;
	/* Refused on hugetlb, and by kernels without THP; where it matters, kst_mem_map() looks at what came of it. */
	madvise(at, mem->len, mem->thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return 0;
}

int kst_mem_unmap_pages(const struct kst_mem *mem)
{
	return madvise(mem->addr, mem->len, MADV_DONTNEED) ? errno : 0;
}

int kst_mem_drop(const struct kst_mem *mem)
{
	if (mem->fd < 0)
		return kst_mem_unmap_pages(mem);
	return fallocate(mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)mem->len) ? errno : 0;
}

void kst_mem_touch(const struct kst_mem *mem, bool write)
{
	char *end = mem->addr + mem->len;
	uint64_t number = 1;

	if (write)
		for (char *page = mem->addr; page < end; page += mem->page_size)
			*(volatile uint64_t *)page = number++;
	else
		for (char *page = mem->addr; page < end; page += mem->page_size)
			(void)*(volatile uint64_t *)page;
}

static json_t *map(struct kst_mem *mem, bool hugetlb, bool file)
{
	unsigned int huge = hugetlb ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
	int err;

	if (file) {
		mem->fd = memfd_create("kst-loop", MFD_CLOEXEC | huge);
		if (mem->fd < 0)
			return kst_errno(errno, "memfd_create");
		if (ftruncate(mem->fd, (off_t)mem->len))
			return kst_errno(errno, "ftruncate");
	}
	mem->room_len = mem->len + 2 * KST_TABLE_SPAN;
	mem->room = mmap(NULL, mem->room_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem->room == MAP_FAILED)
		return kst_errno(errno, "mmap");
	mem->addr = (char *)(((uintptr_t)mem->room + KST_TABLE_SPAN) & ~(KST_TABLE_SPAN - 1));
	err = kst_mem_map_at(mem, mem->addr);
	return err ? kst_errno(err, "mmap") : NULL;
}

/* EOPNOTSUPP unless each page of `mem` is mapped as a huge one. */
static json_t *check_huge(const struct kst_mem *mem)
{
	struct page_region found[2];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)mem->addr,
		.end = (uintptr_t)mem->addr + mem->len,
		.vec = (uintptr_t)found,
		.vec_len = 2,
		.category_mask = PAGE_IS_HUGE,
		.return_mask = PAGE_IS_HUGE,
	};
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	long regions = pagemap < 0 ? -1 : ioctl(pagemap, PAGEMAP_SCAN, &arg);

	if (pagemap >= 0)
		close(pagemap);
	if (regions == 1 && found[0].start == arg.start && found[0].end == arg.end)
		return NULL;
	return kst_errno(EOPNOTSUPP, regions < 0 ? "PAGEMAP_SCAN, to see whether pages are huge" : "huge pages: not given");
}

int kst_mem_renew(const struct kst_mem *mem)
{
	int err = kst_mem_remaps(mem) ? kst_mem_map_at(mem, mem->addr) : mem->thp ? kst_mem_unmap_pages(mem) : 0;
	json_t *small;

	if (err)
		return err;
	kst_mem_touch(mem, !mem->zero);
	small = kst_mem_remaps(mem) ? check_huge(mem) : NULL;
	json_decref(small);
	return small ? EPROTO : 0;
}

#define ACCESSES 8

/*
 * A page of the page cache counts its first few accesses (folio_mark_accessed(), when it is unmapped), and to map one that
 * has had them all takes fewer instructions (PG_workingset in filemap_map_pages()): every page has had them from the start.
 */
static json_t *make_old(const struct kst_mem *mem)
{
	for (int i = 0; i < ACCESSES; i++) {
		int err = kst_mem_unmap_pages(mem);

		if (err)
			return kst_errno(err, "MADV_DONTNEED");
		kst_mem_touch(mem, true);
	}
	return NULL;
}

json_t *kst_mem_map(struct kst_mem *mem, const char *kind, uint64_t pages)
{
	static const char *const kinds[] = { "anon", "shmem", "thp", "shmem_thp", "hugetlb", "zero" };
	enum { ANON, SHMEM, THP, SHMEM_THP, HUGETLB, ZERO, KINDS } k = ANON;
	json_t *reply;

	while (k < KINDS && strcmp(kind, kinds[k]))
		k++;
	*mem = (struct kst_mem){ .room = MAP_FAILED, .fd = -1, .pages = pages, .zero = k == ZERO };
	if (k == KINDS)
		return kst_error("kind: must be anon, shmem, thp, shmem_thp, hugetlb or zero");
	mem->thp = k == THP || k == SHMEM_THP;
	mem->page_size = mem->thp || k == HUGETLB ? HUGE : (size_t)sysconf(_SC_PAGESIZE);
	mem->len = mem->page_size * pages;
	reply = map(mem, k == HUGETLB, k == SHMEM || k == SHMEM_THP || k == HUGETLB);
	if (!reply)
		kst_mem_touch(mem, !mem->zero);
	if (!reply && mem->thp)
		reply = check_huge(mem);
	if (!reply && k == SHMEM)
		reply = make_old(mem);
	if (reply)
		kst_mem_unmap(mem);
	return reply;
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

json_t *kst_uffd_open(int *uffd, uint64_t features)
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
	int throw_away = open_uffd(&has);

	if (throw_away < 0)
		return kst_errno(errno, "userfaultfd");
	close(throw_away);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].bit & features & ~has)
			return kst_errno(EOPNOTSUPP, names[i].name);
	if (features & ~has)
		return kst_errno(EOPNOTSUPP, "UFFDIO_API: a feature this loop needs");
	*uffd = open_uffd(&features);
	return *uffd < 0 ? kst_errno(errno, "UFFDIO_API") : NULL;
}

json_t *kst_track_open(struct kst_track *t, bool rwp, bool async, uint64_t features)
{
	t->rwp = rwp;
	if (rwp)
		features |= UFFD_FEATURE_RWP | (async ? UFFD_FEATURE_RWP_ASYNC : 0);
	else
		features |= UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
			    (async ? UFFD_FEATURE_WP_ASYNC : 0);
	return kst_uffd_open(&t->uffd, features);
}

int kst_uffd_register(int uffd, const void *addr, size_t len, uint64_t modes)
{
	struct uffdio_register reg = { .range = { .start = (uintptr_t)addr, .len = len }, .mode = modes };

	return ioctl(uffd, UFFDIO_REGISTER, &reg) ? errno : 0;
}

int kst_track_register(const struct kst_track *t, const struct kst_mem *mem, uint64_t modes)
{
	modes |= t->rwp ? UFFDIO_REGISTER_MODE_RWP : UFFDIO_REGISTER_MODE_WP;
	return kst_uffd_register(t->uffd, mem->addr, mem->len, modes);
}

int kst_track_renew(const struct kst_track *t, const struct kst_mem *mem)
{
	int err = kst_mem_renew(mem);

	return err || !kst_mem_remaps(mem) ? err : kst_track_register(t, mem, 0);
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

int kst_write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int err = fd < 0 || write(fd, text, strlen(text)) < 0 ? errno : 0;

	if (fd >= 0)
		close(fd);
	return err;
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
