/* SPDX-License-Identifier: MIT */
/*
 * F022: what the kernel stores when a thread exits is lost if its page is protected in sync mode.
 *
 * gcc -Wall -Wextra -o F022 F022.c && ./F022
 * Exits 1 on a kernel that does so, 0 on one that does not, 4 where this cannot be tried.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FEATURE_RWP (1ull << 17)
#define REGISTER_MODE_RWP (1ull << 3)
#define RWPROTECT _IOWR(UFFDIO, 0x09, struct uffdio_writeprotect) /* the same struct and mode bits */

static int go[2];

static int wait_and_exit(void *arg)
{
	char byte;

	(void)arg;
	return (int)read(go[0], &byte, 1);
}

int main(void)
{
	const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
			  CLONE_CHILD_CLEARTID;
	static char stack[65536] __attribute__((aligned(16)));
	volatile int *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_RWP};
	struct uffdio_register reg = {.range = {(uintptr_t)page, 4096}, .mode = REGISTER_MODE_RWP};
	struct uffdio_writeprotect protect = {.range = reg.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	struct uffdio_writeprotect resolve = {.range = reg.range};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), trapped = 0;
	struct uffd_msg msg;
	pid_t tid;

	if (page == MAP_FAILED || pipe(go) || uffd < 0 || ioctl(uffd, UFFDIO_API, &api)) {
		perror("userfaultfd with RWP (as root)");
		return 4;
	}
	*page = -1;
	tid = clone(wait_and_exit, stack + sizeof(stack), flags, NULL, NULL, NULL, page);
	if (tid < 0 || ioctl(uffd, UFFDIO_REGISTER, &reg) || ioctl(uffd, RWPROTECT, &protect)) {
		perror("a thread, protection by userfaultfd");
		return 4;
	}
	if (write(go[1], "", 1) != 1)
		return 4;
	while (!syscall(SYS_tgkill, getpid(), tid, 0)) { /* until it is gone */
		if (read(uffd, &msg, sizeof(msg)) == sizeof(msg)) {
			trapped = 1;
			ioctl(uffd, RWPROTECT, &resolve);
		}
		sched_yield();
	}
	ioctl(uffd, RWPROTECT, &resolve);
	if (*page == 0)
		return 0;
	printf("the thread is gone, its clear_child_tid is not cleared, and its store was %strapped\n", trapped ? "" : "not ");
	return 1;
}
