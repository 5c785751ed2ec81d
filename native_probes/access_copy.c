/* SPDX-License-Identifier: MIT */
/* access_copy.c - copy_to_user(), copy_from_user() and the futex code on a page. */
#define _GNU_SOURCE
#include "access.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int kst_access_result(long result)
{
	if (result < 0)
		return errno;
	return result == KST_ACCESS_SIZE ? 0 : EIO;
}

int kst_access_pipe(struct kst_access *a)
{
	return pipe2(a->fd, O_CLOEXEC) ? errno : 0;
}

int kst_access_fed_pipe(struct kst_access *a)
{
	int err = kst_access_pipe(a);

	return err ? err : kst_access_result(write(a->fd[1], a->fill, KST_ACCESS_SIZE));
}

int kst_access_drain(struct kst_access *a)
{
	return kst_access_result(read(a->fd[0], a->got, KST_ACCESS_SIZE));
}

static int run_write(struct kst_access *a)
{
	int err = kst_access_result(write(a->fd[1], a->page, KST_ACCESS_SIZE));

	return err ? err : kst_access_drain(a);
}

static int run_read(struct kst_access *a)
{
	return kst_access_result(read(a->fd[0], a->page, KST_ACCESS_SIZE));
}

/* The page as the source of UFFDIO_COPY. */
static int prepare_uffdio_copy(struct kst_access *a)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	a->second = mmap(NULL, KST_ACCESS_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (a->second == MAP_FAILED)
		return errno;
	reg.range = (struct uffdio_range){ .start = (uintptr_t)a->second, .len = KST_ACCESS_SIZE };
	a->fd[0] = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (a->fd[0] < 0 || ioctl(a->fd[0], UFFDIO_API, &api) || ioctl(a->fd[0], UFFDIO_REGISTER, &reg))
		return errno;
	return 0;
}

static int run_uffdio_copy(struct kst_access *a)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)a->second, .src = (uintptr_t)a->page, .len = KST_ACCESS_SIZE };

	if (ioctl(a->fd[0], UFFDIO_COPY, &copy))
		return errno;
	memcpy(a->got, a->second, KST_ACCESS_SIZE);
	return 0;
}

/* The kernel sees the value it was told to expect if it goes on to wait, for no time at all. */
static int futex_wait(struct kst_access *a, int op)
{
	const struct timespec none = { 0, 0 };

	if (syscall(SYS_futex, a->page, op, *(uint32_t *)a->second, &none, NULL, 0) == 0)
		return EPROTO;
	return errno == ETIMEDOUT ? 0 : errno;
}

static int prepare_futex(struct kst_access *a)
{
	a->second = mmap(NULL, KST_ACCESS_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (a->second == MAP_FAILED)
		return errno;
	memcpy(a->second, a->page, KST_ACCESS_SIZE);
	return 0;
}

static int run_futex_wait(struct kst_access *a)
{
	return futex_wait(a, FUTEX_WAIT_PRIVATE);
}

static int run_futex_wait_shared(struct kst_access *a)
{
	return futex_wait(a, FUTEX_WAIT);
}

#define FUTEX_SET_TO 0x123

static int prepare_futex_wake_op(struct kst_access *a)
{
	*(uint32_t *)a->fill = FUTEX_SET_TO;
	return prepare_futex(a);
}

static int run_futex_wake_op(struct kst_access *a)
{
	const uint32_t op = FUTEX_OP(FUTEX_OP_SET, FUTEX_SET_TO, FUTEX_OP_CMP_EQ, 0);

	return syscall(SYS_futex, a->second, FUTEX_WAKE_OP_PRIVATE, 0, NULL, a->page, op) < 0 ? errno : 0;
}

const struct kst_accessor kst_copy_accessors[] = {
	{ "write", kst_access_pipe, run_write, KST_ACCESS_SIZE, 0 },
	{ "read", kst_access_fed_pipe, run_read, 0, KST_ACCESS_SIZE },
	{ "uffdio_copy", prepare_uffdio_copy, run_uffdio_copy, KST_ACCESS_SIZE, 0 },
	{ "futex_wait", prepare_futex, run_futex_wait, 0, 0 },
	{ "futex_wait_shared", prepare_futex, run_futex_wait_shared, 0, 0 },
	{ "futex_wake_op", prepare_futex_wake_op, run_futex_wake_op, 0, sizeof(uint32_t) },
	{ NULL, NULL, NULL, 0, 0 },
};
