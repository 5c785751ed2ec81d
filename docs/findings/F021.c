/* SPDX-License-Identifier: MIT */
/*
 * F021: the kernel's access to a page protected in sync mode is refused where the caller cannot retry.
 *
 * gcc -Wall -Wextra -o F021 F021.c && ./F021
 * Exits 1 on a kernel that does so, 0 on one that does not, 4 where this cannot be tried.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FEATURE_RWP (1ull << 17)
#define REGISTER_MODE_RWP (1ull << 3)
#define RWPROTECT _IOWR(UFFDIO, 0x09, struct uffdio_writeprotect) /* the same struct and mode bits */

static struct uffdio_range range;
static int uffd;

/* Resolves whatever is trapped. */
static void *handler(void *arg)
{
	struct uffdio_writeprotect resolve = {.range = range};
	struct uffd_msg msg;

	while (read(uffd, &msg, sizeof(msg)) == sizeof(msg))
		ioctl(uffd, RWPROTECT, &resolve);
	return arg;
}

int main(void)
{
	uint64_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), word = 0;
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_RWP};
	struct uffdio_register reg = {.mode = REGISTER_MODE_RWP};
	struct uffdio_writeprotect protect = {.mode = UFFDIO_WRITEPROTECT_MODE_WP};
	int mem = open("/proc/self/mem", O_RDONLY);
	pthread_t thread;

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	range = (struct uffdio_range){(uintptr_t)page, 4096};
	reg.range = protect.range = range;
	if (page == MAP_FAILED || mem < 0 || uffd < 0 || ioctl(uffd, UFFDIO_API, &api)) {
		perror("userfaultfd with RWP (as root), /proc/self/mem");
		return 4;
	}
	*page = 42;
	if (ioctl(uffd, UFFDIO_REGISTER, &reg) || ioctl(uffd, RWPROTECT, &protect) ||
	    pthread_create(&thread, NULL, handler, NULL)) {
		perror("protection by userfaultfd");
		return 4;
	}
	if (pread(mem, &word, sizeof(word), (off_t)(uintptr_t)page) == sizeof(word) && word == 42)
		return 0;
	printf("reading a protected page through /proc/self/mem: %s; its handler was not asked\n", strerror(errno));
	return 1;
}
