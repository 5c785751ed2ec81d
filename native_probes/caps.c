/* SPDX-License-Identifier: MIT */
/* caps.c - what the kernel can do: every answer is the result of trying. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "vcpu.h"
#include "uapi.h"

#define HUGE (2ull << 20)
#define HUGE_2MB_SHIFT (21 << 26)
#define PM_SOFT_DIRTY (1ull << 55)

static int open_uffd(void)
{
	return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

/* The answer to UFFDIO_API with features=0: all zero where there is no userfaultfd. */
static struct uffdio_api all_features(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	int fd = open_uffd();

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		api = (struct uffdio_api){0};
	if (fd >= 0)
		close(fd);
	return api;
}

static void *map_memfd(unsigned int flags)
{
	int fd = memfd_create("kst-caps", MFD_CLOEXEC | flags);
	void *memory = MAP_FAILED;

	if (fd < 0)
		return MAP_FAILED;
	/* NORESERVE: registering needs no page, so the test must not depend on free huge pages. */
	if (!ftruncate(fd, (off_t)HUGE))
		memory = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	close(fd);
	return memory;
}

static void *map_anon(void)
{
	return mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static void *map_shmem(void)
{
	return map_memfd(0);
}

static void *map_hugetlb(void)
{
	return map_memfd(MFD_HUGETLB | HUGE_2MB_SHIFT);
}

/* The `ioctls` mask of one registration, or the name of the errno. */
static json_t *try_register(void *(*map)(void), uint64_t mode, uint64_t features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	struct uffdio_register reg = {.mode = mode};
	void *memory = MAP_FAILED;
	int err = 0, fd = open_uffd();

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || (memory = map()) == MAP_FAILED) {
		err = errno;
	} else {
		reg.range = (struct uffdio_range){(uint64_t)(uintptr_t)memory, HUGE};
		if (ioctl(fd, UFFDIO_REGISTER, &reg))
			err = errno;
	}
	if (fd >= 0)
		close(fd);
	if (memory != MAP_FAILED)
		munmap(memory, HUGE);
	if (err)
		return json_string(strerrorname_np(err) ? strerrorname_np(err) : "UNKNOWN");
	return json_integer(KST_IOCTLS(reg.ioctls));
}

static json_t *register_modes(uint64_t available)
{
	static const struct {
		const char *name;
		uint64_t mode;
	} modes[] = {
		{"missing", UFFDIO_REGISTER_MODE_MISSING},
		{"wp", UFFDIO_REGISTER_MODE_WP},
		{"minor", UFFDIO_REGISTER_MODE_MINOR},
		{"rwp", UFFDIO_REGISTER_MODE_RWP},
	};
	static const struct {
		const char *name;
		void *(*map)(void);
	} kinds[] = {{"anon", map_anon}, {"shmem", map_shmem}, {"hugetlb", map_hugetlb}};
	/* Everything that changes only what may be registered; RWP must be asked for. */
	uint64_t features = available & (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_HUGETLBFS |
					 UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS |
					 UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_RWP);
	json_t *all = json_object();

	for (size_t m = 0; m < sizeof(modes) / sizeof(modes[0]); m++) {
		json_t *of_mode = json_object();

		for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
			json_object_set_new(of_mode, kinds[k].name,
					    try_register(kinds[k].map, modes[m].mode, features));
		json_object_set_new(all, modes[m].name, of_mode);
	}
	return all;
}

struct page_tables {
	bool scan, accessed, soft_dirty;
};

/* What /proc/self/pagemap can tell, tried on one freshly written page. */
static struct page_tables try_pagemap(void)
{
	struct page_tables can = {false, false, false};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	volatile char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t start = (uint64_t)(uintptr_t)page, entry = 0;
	struct page_region vec[1];
	struct pm_scan_arg scan = {.size = sizeof(scan), .start = start, .end = start + 4096,
				   .vec = (uint64_t)(uintptr_t)vec, .vec_len = 1, .return_mask = PAGE_IS_PRESENT};

	if (fd >= 0 && page != MAP_FAILED) {
		*page = 1;
		can.scan = ioctl(fd, PAGEMAP_SCAN, &scan) >= 0;
		scan.return_mask = PAGE_IS_ACCESSED;
		can.accessed = ioctl(fd, PAGEMAP_SCAN, &scan) >= 0;
		can.soft_dirty = pread(fd, &entry, sizeof(entry), (off_t)(start / 4096 * sizeof(entry))) > 0 &&
				 (entry & PM_SOFT_DIRTY);
	}
	if (page != MAP_FAILED)
		munmap((void *)page, 4096);
	if (fd >= 0)
		close(fd);
	return can;
}

/* Guard pages in shared memory, which have come after those in anonymous memory. */
static bool can_guard(void)
{
	void *memory = map_shmem();
	bool can = memory != MAP_FAILED && !madvise(memory, 4096, MADV_GUARD_INSTALL);

	if (memory != MAP_FAILED)
		munmap(memory, HUGE);
	return can;
}

/* The first line of a small file, without newline; empty when there is none. */
static const char *first_line(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, buffer, size - 1) : -1;

	if (fd >= 0)
		close(fd);
	buffer[n > 0 ? n : 0] = 0;
	buffer[strcspn(buffer, "\n")] = 0;
	return buffer;
}

static bool there(const char *path)
{
	return access(path, F_OK) == 0;
}

/* Whether `word` is in the first line of a file. */
static bool says(const char *path, const char *word)
{
	char line[4096];

	return strstr(first_line(path, line, sizeof(line)), word);
}

/* A switch of huge pages of one kind that is there and not set to "never". */
static bool switched_on(const char *path)
{
	return there(path) && !says(path, "[never]") && !says(path, "[deny]");
}

#define THP "/sys/kernel/mm/transparent_hugepage/"

/* What the matrix of operations needs beside. */
static json_t *more_caps(void)
{
	return json_pack("{s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:o}", "guest", says("/proc/cmdline", "kst=functional"), "mthp",
			 switched_on(THP "hugepages-64kB/enabled"), "shmem_thp", switched_on(THP "shmem_enabled"),
			 "hwpoison", there("/proc/sys/vm/memory_failure_recovery"), "page_flags",
			 access("/proc/kpageflags", R_OK) == 0, "io_uring", kst_can_pin(), "guard", can_guard(),
			 "knobs", kst_knobs());
}

json_t *kst_caps(void)
{
	struct uffdio_api api = all_features();
	struct page_tables can = try_pagemap();
	struct sysinfo info = {0};
	char thp[128], huge[32], clock[64];
	json_t *all;

	sysinfo(&info);
	first_line(THP "enabled", thp, sizeof(thp));
	first_line("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", huge, sizeof(huge));
	first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", clock, sizeof(clock));
	all = json_pack("{s:I, s:I, s:o, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:i, s:i, s:i, s:s, s:s}",
			 "uffd_features", (json_int_t)api.features, "uffd_ioctls", KST_IOCTLS(api.ioctls),
			 "register_modes", register_modes(api.features), "pagemap_scan", can.scan, "page_accessed",
			 can.accessed, "page_idle", there("/sys/kernel/mm/page_idle/bitmap"), "lru_gen",
			 there("/sys/kernel/mm/lru_gen/enabled"), "damon", there("/sys/kernel/mm/damon/admin"),
			 "soft_dirty", can.soft_dirty, "swap", info.totalswap > 0, "thp",
			 *thp && !strstr(thp, "[never]"), "hugetlb_free", atoi(huge), "cpus", kst_cpus(),
			 "nodes", there("/sys/devices/system/node/node1") ? 2 : 1, "clocksource", clock, "kvm",
			 kst_vcpu_missing());
	json_object_update_new(all, more_caps());
	return all;
}
