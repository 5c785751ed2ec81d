/* SPDX-License-Identifier: MIT */
/*
 * F027: mremap without UFFD_FEATURE_EVENT_REMAP, to a place beside memory of the same userfaultfd, takes the
 * registration of that memory away; its protection markers stay.
 *
 * gcc -Wall -Wextra -o F027 F027.c && ./F027
 * Exits 1 on a kernel that does so, 0 on one that leaves the neighbour registered, 4 where this cannot be tried.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
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
	/* Page 0 is moved onto page 3; page 2 is the neighbour; 1 and 4 are guards. */
	char *room = mmap(NULL, 5 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *moved = room, *neighbour = room + 2 * PAGE, *place = room + 3 * PAGE;
	struct uffdio_register alone = {.range = {(uintptr_t)moved, PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_register both = {.range = {(uintptr_t)neighbour, 2 * PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect wp = {.range = {(uintptr_t)neighbour, PAGE}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry;

	if (room == MAP_FAILED || uffd < 0 || pagemap < 0)
		return cannot("mmap, userfaultfd or pagemap");
	if (mprotect(moved, PAGE, PROT_READ | PROT_WRITE) || mprotect(neighbour, 2 * PAGE, PROT_READ | PROT_WRITE))
		return cannot("mprotect");
	*(volatile char *)neighbour = 1; /* what is moved is never touched: its VMA may merge with any other */
	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &alone) ||
	    ioctl(uffd, UFFDIO_REGISTER, &both) || ioctl(uffd, UFFDIO_WRITEPROTECT, &wp))
		return cannot("write protection by userfaultfd");
	if (mremap(moved, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place) != place)
		return cannot("mremap");
	if (pread(pagemap, &entry, sizeof(entry), (uintptr_t)neighbour / PAGE * 8) != sizeof(entry))
		return cannot("pagemap");
	if (!ioctl(uffd, UFFDIO_WRITEPROTECT, &wp)) {
		puts("the neighbour is registered as before");
		return 0;
	}
	printf("the neighbour is not registered any more (UFFDIO_WRITEPROTECT: %s), and its page %s\n",
	       errno == ENOENT ? "ENOENT" : "another error", entry & MARKER ? "has the marker all the same" : "has no marker");
	return 1;
}
