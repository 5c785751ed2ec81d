/* SPDX-License-Identifier: MIT */
/*
 * F028: shared memory that MADV_REMOVE has emptied is still write-protected, so nobody is told that it changed.
 *
 * gcc -Wall -Wextra -o F028 F028.c && ./F028
 * Exits 1 on a kernel that does so, 0 on one where the page is no longer protected, 4 where this cannot be tried.
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

static int cannot(const char *what)
{
	perror(what);
	return 4;
}

int main(void)
{
	uint64_t features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | FEATURE_WP_ASYNC;
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	int file = memfd_create("F028", 0), pagemap = open("/proc/self/pagemap", O_RDONLY);
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect wp = {.mode = UFFDIO_WRITEPROTECT_MODE_WP};
	uint64_t before, after;
	char *memory;

	if (file < 0 || pagemap < 0 || uffd < 0 || ftruncate(file, PAGE))
		return cannot("memfd, pagemap or userfaultfd");
	memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (memory == MAP_FAILED)
		return cannot("mmap");
	memset(memory, 1, PAGE);
	reg.range = wp.range = (struct uffdio_range){(uintptr_t)memory, PAGE};
	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg) || ioctl(uffd, UFFDIO_WRITEPROTECT, &wp))
		return cannot("async write protection by userfaultfd");
	if (pread(pagemap, &before, sizeof(before), (uintptr_t)memory / PAGE * 8) != sizeof(before))
		return cannot("pagemap");
	if (!(before & MARKER))
		return cannot("UFFDIO_WRITEPROTECT has protected nothing");
	if (madvise(memory, PAGE, MADV_REMOVE))
		return cannot("MADV_REMOVE");
	printf("the byte that was 1 is %d\n", memory[0]);
	if (pread(pagemap, &after, sizeof(after), (uintptr_t)memory / PAGE * 8) != sizeof(after))
		return cannot("pagemap");
	puts(after & MARKER ? "its page is write-protected, as if nothing had been written" : "its page counts as written");
	return after & MARKER ? 1 : 0;
}
