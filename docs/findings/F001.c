/* SPDX-License-Identifier: MIT */
/*
 * F001: UFFDIO_UNREGISTER leaves a thread asleep that was blocked on a fault of the range.
 *
 * gcc -Wall -Wextra -pthread -o F001 F001.c && ./F001
 * Exits 1 on a kernel that does so, 0 on one that wakes the thread, 4 where this cannot be tried.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define BOUND_S 10
/* UFFDIO_WRITEPROTECT is 6 and UFFDIO_RWPROTECT 9; both have the same struct. Since Linux 7.3. */
#define FEATURE_RWP (1ull << 17)
#define REGISTER_RWP (1ull << 3)
#define RWPROTECT _IOWR(UFFDIO, 0x09, struct uffdio_writeprotect)

static volatile char *page;
static atomic_int written;

static void *writer(void *arg)
{
	*page = 2;
	atomic_store(&written, 1);
	return arg;
}

/* 1: the thread sleeps on, 0: it was woken, 4: cannot be tried. */
static int leaves_asleep(const char *name, uint64_t feature, uint64_t mode, unsigned long ioctl_protect)
{
	struct uffdio_api api = {.api = UFFD_API, .features = feature};
	struct uffdio_register reg = {.mode = mode};
	struct uffdio_writeprotect protect = {.mode = UFFDIO_WRITEPROTECT_MODE_WP};
	struct timespec now, end;
	struct uffd_msg msg;
	struct pollfd told = {.events = POLLIN};
	pthread_t thread;

	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	told.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (page == MAP_FAILED || told.fd < 0 || ioctl(told.fd, UFFDIO_API, &api)) {
		printf("%s: not here\n", name);
		return 4;
	}
	*page = 1;
	atomic_store(&written, 0);
	reg.range.start = protect.range.start = (uintptr_t)page;
	reg.range.len = protect.range.len = PAGE;
	if (ioctl(told.fd, UFFDIO_REGISTER, &reg) || ioctl(told.fd, ioctl_protect, &protect)) {
		perror(name);
		return 4;
	}
	if (pthread_create(&thread, NULL, writer, NULL) || poll(&told, 1, BOUND_S * 1000) != 1 ||
	    read(told.fd, &msg, sizeof(msg)) != sizeof(msg)) {
		printf("%s: the write was not trapped\n", name);
		return 4;
	}
	if (ioctl(told.fd, UFFDIO_UNREGISTER, &reg.range)) {
		perror("UFFDIO_UNREGISTER");
		return 4;
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += BOUND_S;
	do {
		if (atomic_load(&written)) {
			printf("%s: the thread was woken\n", name);
			return 0;
		}
		sched_yield();
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
	printf("%s: the thread still sleeps %d s after UFFDIO_UNREGISTER\n", name, BOUND_S);
	return 1;
}

int main(void)
{
	int rwp = leaves_asleep("RWP", FEATURE_RWP, REGISTER_RWP, RWPROTECT);
	int wp = leaves_asleep("WP", UFFD_FEATURE_PAGEFAULT_FLAG_WP, UFFDIO_REGISTER_MODE_WP, UFFDIO_WRITEPROTECT);

	fflush(stdout);
	_exit(rwp == 1 || wp == 1 ? 1 : rwp == 4 && wp == 4 ? 4 : 0); /* threads may be asleep */
}
