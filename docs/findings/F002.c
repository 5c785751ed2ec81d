/* SPDX-License-Identifier: MIT */
/*
 * F002: UFFDIO_UNREGISTER that is refused for half a huge page has lifted the protection of that page.
 *
 * echo 4 > /proc/sys/vm/nr_hugepages; gcc -Wall -Wextra -o F002 F002.c && ./F002
 * Exits 1 on a kernel that does so, 0 on one where the error changes nothing, 4 where this cannot be tried.
 * Tries RWP, or WP where the kernel has no RWP.
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

#define HUGE (2ul << 20)
#define MARKER (1ull << 57) /* pagemap: userfaultfd protection */
#define FEATURE_RWP (1ull << 17)
#define REGISTER_MODE_RWP (1ull << 3)
#define RWPROTECT _IOWR(UFFDIO, 0x09, struct uffdio_writeprotect) /* the same struct and mode bits */

static int cannot(const char *what)
{
	perror(what);
	return 4;
}

static int open_uffd(uint64_t features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	return uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) ? -1 : uffd;
}

static int is_protected(int pagemap, const char *page)
{
	uint64_t entry = 0;

	if (pread(pagemap, &entry, sizeof(entry), (uintptr_t)page / 4096 * 8) != sizeof(entry))
		perror("pagemap");
	return !!(entry & MARKER);
}

int main(void)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT;
	char *memory = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, flags, -1, 0);
	struct uffdio_register reg = {.range = {(uintptr_t)memory, 2 * HUGE}, .mode = REGISTER_MODE_RWP};
	struct uffdio_writeprotect protect = {.range = reg.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	struct uffdio_range part = {(uintptr_t)memory, 4096};
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	unsigned long request = RWPROTECT;
	int uffd = open_uffd(FEATURE_RWP);

	if (memory == MAP_FAILED || pagemap < 0)
		return cannot("two huge pages, or pagemap");
	memset(memory, 1, 2 * HUGE);
	if (uffd < 0) {
		reg.mode = UFFDIO_REGISTER_MODE_WP;
		request = UFFDIO_WRITEPROTECT;
		uffd = open_uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	}
	if (uffd < 0 || ioctl(uffd, UFFDIO_REGISTER, &reg) || ioctl(uffd, request, &protect))
		return cannot("protection by userfaultfd");
	if (!is_protected(pagemap, memory) || !is_protected(pagemap, memory + HUGE))
		return cannot("nothing was protected");
	if (!ioctl(uffd, UFFDIO_UNREGISTER, &part)) {
		puts("UFFDIO_UNREGISTER of half a huge page succeeded");
		return 1;
	}
	if (is_protected(pagemap, memory) && is_protected(pagemap, memory + HUGE))
		return 0;
	puts("the call that failed has lifted the protection");
	return 1;
}
