/* SPDX-License-Identifier: MIT */
/*
 * F031: UFFDIO_COPY puts a page where a guard page is, which nobody has removed.
 *
 * gcc -Wall -Wextra -o F031 F031.c && ./F031
 * Exits 1 on a kernel that does so, 0 on one that refuses, 4 where this cannot be tried.
 */
#define _GNU_SOURCE
#include <errno.h>
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
#define ADVICE_GUARD_INSTALL 102 /* of headers younger than some that may be there */

static int cannot(const char *what)
{
	perror(what);
	return 4;
}

int main(void)
{
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	char *memory = mmap(NULL, PAGE, prot, flags, -1, 0), *source = mmap(NULL, PAGE, prot, flags, -1, 0);
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.range = {(uintptr_t)memory, PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	struct uffdio_copy copy = {.dst = (uintptr_t)memory, .src = (uintptr_t)source, .len = PAGE};

	if (memory == MAP_FAILED || source == MAP_FAILED)
		return cannot("mmap");
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		return cannot("userfaultfd");
	*source = 1;
	if (ioctl(uffd, UFFDIO_REGISTER, &reg))
		return cannot("UFFDIO_REGISTER");
	if (madvise(memory, PAGE, ADVICE_GUARD_INSTALL))
		return cannot("MADV_GUARD_INSTALL");
	if (!ioctl(uffd, UFFDIO_COPY, &copy)) {
		printf("UFFDIO_COPY onto a guard page has succeeded; the page can be read, and holds %d\n",
		       *(volatile char *)memory);
		return 1;
	}
	if (errno != EEXIST)
		return cannot("UFFDIO_COPY");
	return 0;
}
