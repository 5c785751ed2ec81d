/* SPDX-License-Identifier: MIT */
/*
 * peer_fault_mean.c - what one write-protect fault takes, measured the way it is usually done: the mean of many.
 *
 * A thread writes once to each page of a write-protected range; another waits in poll(2), reads the message and lifts
 * the protection of that page. The clock is read before the first page and after the last one of a pass, and the time
 * of all passes is divided by the number of faults. It shares no code with the probe, which reads the clock around
 * every access: tests/bench_peer.py sets both beside each other.
 *
 *     cc -O2 -pthread -o peer_fault_mean peer_fault_mean.c && ./peer_fault_mean PAGES PASSES
 *
 * Prints "FAULTS NANOSECONDS": how many faults the handler saw, and the mean. One more pass is made first, unmeasured.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int uffd;
static long page_size;
static volatile long faults;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void protect(uint64_t start, uint64_t len, uint64_t mode)
{
	struct uffdio_writeprotect wp = { .range = { .start = start, .len = len }, .mode = mode };

	if (ioctl(uffd, UFFDIO_WRITEPROTECT, &wp))
		die("UFFDIO_WRITEPROTECT");
}

static void *handler(void *arg)
{
	struct pollfd fd = { .fd = uffd, .events = POLLIN };
	struct uffd_msg msg;

	for (;;) {
		if (poll(&fd, 1, -1) < 0)
			die("poll");
		if (read(uffd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		faults++;
		protect(msg.arg.pagefault.address & ~(uint64_t)(page_size - 1), (uint64_t)page_size, 0);
	}
	return arg;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

int main(int argc, char **argv)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_WP };
	long pages = argc == 3 ? atol(argv[1]) : 0, passes = argc == 3 ? atol(argv[2]) : 0;
	double total = 0;
	pthread_t thread;
	size_t len;
	char *area;

	if (pages < 1 || passes < 1) {
		fprintf(stderr, "usage: %s PAGES PASSES\n", argv[0]);
		return 2;
	}
	page_size = sysconf(_SC_PAGESIZE);
	len = (size_t)(pages * page_size);
	area = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		die("mmap");
	madvise(area, len, MADV_NOHUGEPAGE);
	for (long i = 0; i < pages; i++)
		area[i * page_size] = 1;
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0)
		die("userfaultfd");
	if (ioctl(uffd, UFFDIO_API, &api))
		die("UFFDIO_API");
	reg.range.start = (uintptr_t)area;
	reg.range.len = len;
	if (ioctl(uffd, UFFDIO_REGISTER, &reg))
		die("UFFDIO_REGISTER");
	if (pthread_create(&thread, NULL, handler, NULL))
		die("pthread_create");
	for (long pass = 0; pass <= passes; pass++) {
		double begin;

		protect((uintptr_t)area, len, UFFDIO_WRITEPROTECT_MODE_WP);
		begin = now();
		for (long i = 0; i < pages; i++)
			*(volatile char *)(area + i * page_size) = (char)pass;
		if (pass)
			total += now() - begin;
		else
			faults = 0; /* warmed up: each fault was counted before its page was let go */
	}
	printf("%ld %.1f\n", faults, total / (double)(pages * passes));
	return 0;
}
