/* SPDX-License-Identifier: MIT */
/*
 * F032: mprotect that makes locked memory writable makes its protected pages accessed, or written, though nobody was there.
 *
 * gcc -Wall -Wextra -o F032 F032.c && ./F032
 * Exits 1 on a kernel that does so, 0 on one where the page stays protected, 4 where this cannot be tried.
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
#define MARKER (1ull << 57) /* pagemap: userfaultfd protection */
#define FEATURE_WP_ASYNC (1ull << 15)
#define FEATURE_RWP (1ull << 17)
#define FEATURE_RWP_ASYNC (1ull << 18)
#define MODE_RWP (1ull << 3)
#define RWPROTECT _IOWR(UFFDIO, 0x09, struct uffdio_writeprotect)

/* Whether the page has the marker; -1: that cannot be told. */
static int marked(const char *page)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	ssize_t got = -1;
	uint64_t entry;

	if (pagemap >= 0)
		got = pread(pagemap, &entry, sizeof(entry), (uintptr_t)page / PAGE * 8);
	close(pagemap);
	return got == sizeof(entry) ? !!(entry & MARKER) : -1;
}

/* 0, 1 or 4, as the program exits. */
static int try(const char *name, uint64_t features, uint64_t mode, unsigned long protect)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register reg = {.range = {(uintptr_t)page, PAGE}, .mode = mode};
	struct uffdio_writeprotect arg = {.range = {(uintptr_t)page, PAGE}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	int after;

	if (page == MAP_FAILED || uffd < 0 || ioctl(uffd, UFFDIO_API, &api)) {
		printf("%s: not to be had\n", name);
		return 4;
	}
	memset(page, 1, PAGE);
	if (mprotect(page, PAGE, PROT_READ) || mlock(page, PAGE) || ioctl(uffd, UFFDIO_REGISTER, &reg) ||
	    ioctl(uffd, protect, &arg) || marked(page) != 1) {
		printf("%s: the page could not be locked and protected\n", name);
		return 4;
	}
	if (mprotect(page, PAGE, PROT_READ | PROT_WRITE) || (after = marked(page)) < 0) {
		printf("%s: no mprotect or pagemap\n", name);
		return 4;
	}
	printf("%s: %s\n", name, after ? "still protected" : "no longer protected, and nobody was there");
	return !after;
}

int main(void)
{
	uint64_t wp = UFFD_FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_ASYNC;
	int first = try("write protection", wp, UFFDIO_REGISTER_MODE_WP, UFFDIO_WRITEPROTECT);
	int second = try("read-write protection", FEATURE_RWP | FEATURE_RWP_ASYNC, MODE_RWP, RWPROTECT);

	return first == 1 || second == 1 ? 1 : first == 0 || second == 0 ? 0 : 4;
}
