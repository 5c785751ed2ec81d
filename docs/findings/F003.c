/* SPDX-License-Identifier: MIT */
/*
 * F003: UFFDIO_WRITEPROTECT that is refused has write-protected pages all the same.
 *
 * gcc -Wall -Wextra -o F003 F003.c && ./F003
 * Exits 1 on a kernel that does so, 0 on one where the error changes nothing, 4 where this cannot be tried.
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

static int cannot(const char *what)
{
	perror(what);
	return 4;
}

int main(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
	char *memory = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register reg = {.range = {(uintptr_t)memory, 2 * PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect wp = {.range = {(uintptr_t)memory, 3 * PAGE}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entries[3];

	if (memory == MAP_FAILED || uffd < 0 || pagemap < 0)
		return cannot("mmap, userfaultfd or pagemap");
	memset(memory, 1, 3 * PAGE);
	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg))
		return cannot("write protection by userfaultfd");
	/* The third page is not registered: this must be refused as a whole. */
	if (!ioctl(uffd, UFFDIO_WRITEPROTECT, &wp)) {
		puts("UFFDIO_WRITEPROTECT beyond its range succeeded");
		return 1;
	}
	if (pread(pagemap, entries, sizeof(entries), (uintptr_t)memory / PAGE * 8) != sizeof(entries))
		return cannot("pagemap");
	for (int i = 0; i < 3; i++)
		printf("page %d: %s\n", i, entries[i] & MARKER ? "protected by the call that failed" : "as it was");
	return (entries[0] | entries[1] | entries[2]) & MARKER ? 1 : 0;
}
