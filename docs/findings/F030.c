/* SPDX-License-Identifier: MIT */
/*
 * F030: MADV_GUARD_INSTALL never ends where shared memory is write-protected by userfaultfd.
 *
 * gcc -Wall -Wextra -o F030 F030.c && ./F030
 * Exits 1 on a kernel that does so (after 5 s), 0 on one that installs the guard page, 4 where this cannot be tried.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ul
#define BOUND 5 /* seconds */

/* Of headers younger than some that may be there. */
#define ADVICE_GUARD_INSTALL 102
#define FEATURE_WP_HUGETLBFS_SHMEM (1ull << 12)

static int cannot(const char *what)
{
	perror(what);
	return 4;
}

static void too_late(int number)
{
	static const char text[] = "MADV_GUARD_INSTALL of one page has not returned within 5 s\n";

	(void)number;
	if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0)
		_exit(4);
	_exit(1);
}

static char *map_file(void)
{
	int file = memfd_create("F030", MFD_CLOEXEC);

	if (file < 0 || ftruncate(file, PAGE))
		return MAP_FAILED;
	return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
}

int main(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | FEATURE_WP_HUGETLBFS_SHMEM,
	};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	char *memory = map_file(), *other = map_file();

	if (memory == MAP_FAILED || other == MAP_FAILED)
		return cannot("memfd");
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		return cannot("userfaultfd");
	/* What it does of shared memory that is not protected. */
	*other = 1;
	if (madvise(other, PAGE, ADVICE_GUARD_INSTALL))
		return cannot("MADV_GUARD_INSTALL of shared memory");

	struct uffdio_register reg = {.range = {(uintptr_t)memory, PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect protect = {.range = reg.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};

	*memory = 1;
	if (ioctl(uffd, UFFDIO_REGISTER, &reg))
		return cannot("UFFDIO_REGISTER");
	if (ioctl(uffd, UFFDIO_WRITEPROTECT, &protect))
		return cannot("UFFDIO_WRITEPROTECT");
	signal(SIGALRM, too_late);
	alarm(BOUND);
	if (madvise(memory, PAGE, ADVICE_GUARD_INSTALL))
		return cannot("MADV_GUARD_INSTALL");
	return 0;
}
