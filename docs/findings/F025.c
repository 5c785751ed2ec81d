/* SPDX-License-Identifier: MIT */
/*
 * F025: reclaim of shared memory drops its read-write protection: the next access is not trapped.
 *
 * gcc -Wall -Wextra -o F025 F025.c && ./F025    needs swap
 * Exits 1 on a kernel that does so, 0 on one where the page is still protected, 4 where this cannot be tried.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096ul
#define MARKER (1ull << 57)  /* pagemap: userfaultfd protection */
#define PRESENT (1ull << 63) /* pagemap */

/* Of <linux/userfaultfd.h> from 7.3 on. */
#define MODE_RWP (1ull << 3)
#define FEATURE_RWP (1ull << 17)
#define RWPROTECT _IOWR(UFFDIO, 0x09, struct uffdio_writeprotect)

static volatile char *memory;
static volatile int finished;

static int cannot(const char *what)
{
	perror(what);
	return 4;
}

static uint64_t entry(int pagemap)
{
	uint64_t one = 0;

	if (pread(pagemap, &one, sizeof(one), (uintptr_t)memory / PAGE * 8) != sizeof(one))
		perror("pagemap");
	return one;
}

static void *access_it(void *unused)
{
	(void)unused;
	*memory = 2;
	finished = 1;
	return NULL;
}

int main(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_RWP};
	int file = memfd_create("F025", 0), pagemap = open("/proc/self/pagemap", O_RDONLY);
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	struct uffdio_writeprotect rwp = {.mode = 1};
	struct uffdio_register reg = {.mode = MODE_RWP};
	pthread_t thread;

	if (file < 0 || pagemap < 0 || uffd < 0 || ftruncate(file, PAGE))
		return cannot("memfd, pagemap or userfaultfd");
	memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (memory == MAP_FAILED)
		return cannot("mmap");
	*memory = 1;
	reg.range = rwp.range = (struct uffdio_range){(uintptr_t)memory, PAGE};
	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg) || ioctl(uffd, RWPROTECT, &rwp))
		return cannot("read-write protection by userfaultfd");
	if (!(entry(pagemap) & MARKER))
		return cannot("the page was not protected to begin with");
	/* Pages added lately wait in lists of each CPU: tried until it is out. */
	for (int i = 0; i < 1000 && (entry(pagemap) & PRESENT); i++)
		if (madvise((void *)memory, PAGE, MADV_PAGEOUT))
			return cannot("MADV_PAGEOUT");
	if (entry(pagemap) & PRESENT)
		return cannot("the page is not swapped out: is there swap?");
	printf("protected and swapped out: the marker is %s\n", entry(pagemap) & MARKER ? "there" : "gone");
	if (pthread_create(&thread, NULL, access_it, NULL))
		return cannot("pthread_create");
	/* A message, or the access has gone by: one of them comes. */
	while (!finished)
		if (poll(&(struct pollfd){.fd = uffd, .events = POLLIN}, 1, 10) > 0) {
			puts("the access after that was trapped");
			return 0;
		}
	puts("the access after that was not trapped");
	return 1;
}
