/* SPDX-License-Identifier: MIT */
/*
 * F004: a guard page is PAGE_IS_ACCESSED although nobody can have accessed it.
 *
 * gcc -Wall -Wextra -o F004 F004.c && ./F004
 * Exits 1 on a kernel that says so, 0 on one that does not, 4 where this cannot be tried.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ul
#define FEATURE_RWP (1ull << 17)
#define REGISTER_MODE_RWP (1ull << 3)
#define RWPROTECT _IOWR(UFFDIO, 0x09, struct uffdio_writeprotect) /* the same struct and mode bits */
#define RWPROTECT_MODE_RWP 1
#define IS_ACCESSED (1ull << 9)
#define ADVICE_GUARD_INSTALL 102

struct range_found {
	uint64_t start, end, categories;
};

struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

static int cannot(const char *what)
{
	perror(what);
	return 4;
}

int main(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_RWP};
	char *memory = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register reg = {.range = {(uintptr_t)memory, 3 * PAGE}, .mode = REGISTER_MODE_RWP};
	struct uffdio_writeprotect protect = {.range = reg.range, .mode = RWPROTECT_MODE_RWP};
	struct range_found found[3];
	struct scan scan = {.size = sizeof(scan), .start = (uintptr_t)memory, .end = (uintptr_t)memory + 3 * PAGE,
			    .vec = (uintptr_t)found, .vec_len = 3, .category_mask = IS_ACCESSED, .return_mask = IS_ACCESSED};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	int pagemap = open("/proc/self/pagemap", O_RDONLY), count;

	if (memory == MAP_FAILED || uffd < 0 || pagemap < 0)
		return cannot("mmap, userfaultfd or pagemap");
	memset(memory, 1, 3 * PAGE);
	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg))
		return cannot("RWP");
	if (madvise(memory + PAGE, PAGE, ADVICE_GUARD_INSTALL))
		return cannot("MADV_GUARD_INSTALL");
	if (ioctl(uffd, RWPROTECT, &protect))
		return cannot("UFFDIO_RWPROTECT");
	count = ioctl(pagemap, _IOWR('f', 16, struct scan), &scan);
	if (count < 0)
		return cannot("PAGEMAP_SCAN");
	for (int i = 0; i < count; i++)
		printf("accessed: page %lu\n", (unsigned long)(found[i].start - (uintptr_t)memory) / PAGE);
	return count ? 1 : 0;
}
