/* SPDX-License-Identifier: MIT */
/*
 * F023: a write fault on a write-protected hugetlb page sleeps for ever if the page is resolved meanwhile.
 *
 * echo 4 > /proc/sys/vm/nr_hugepages; gcc -Wall -Wextra -pthread -o F023 F023.c && ./F023
 * Exits 1 on a kernel that does so, 0 on one that does not, 4 where this cannot be tried.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HUGE (2ul << 20)
#define ROUNDS 20000
#define BOUND_S 10

static _Atomic uint64_t *page;
static atomic_ulong writes;

static void *writer(void *arg)
{
	for (;; atomic_fetch_add(&writes, 1))
		atomic_fetch_add(page, 1);
	return arg;
}

/* Has the writer written twice since, so that one of the writes began after this call did? */
static int goes_on(void)
{
	unsigned long before = atomic_load(&writes);
	struct timespec now, end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	do {
		if (atomic_load(&writes) >= before + 2)
			return 1;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec <= end.tv_sec + BOUND_S);
	return 0;
}

int main(void)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT;
	void *memory = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, flags, -1, 0);
	struct uffdio_api api = {
		.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
	struct uffdio_register reg = {.range = {(uintptr_t)memory, HUGE}, .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect protect = {.range = reg.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	struct uffdio_writeprotect resolve = {.range = reg.range};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	pthread_t thread;

	if (memory == MAP_FAILED || uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg)) {
		perror("a huge page, userfaultfd");
		return 4;
	}
	page = memory;
	*page = 1;
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2 || pthread_create(&thread, NULL, writer, NULL)) {
		fputs("two CPUs and a thread are needed\n", stderr);
		return 4;
	}
	for (int round = 0; round < ROUNDS; round++) {
		const struct timespec moment = {0, round * 997L % 40000};

		if (ioctl(uffd, UFFDIO_WRITEPROTECT, &protect))
			return 4;
		nanosleep(&moment, NULL); /* not to wait for anything: the writer's fault is to be anywhere */
		if (ioctl(uffd, UFFDIO_WRITEPROTECT, &resolve))
			return 4;
		if (!goes_on()) {
			printf("round %d: the page is resolved, and the writer sleeps on\n", round);
			return 1;
		}
	}
	return 0;
}
