/* SPDX-License-Identifier: MIT */
/* access_io.c - input and output that takes the page itself (GUP): vmsplice, O_DIRECT, io_uring, Linux AIO. */
#define _GNU_SOURCE
#include "access.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int run_vmsplice(struct kst_access *a)
{
	struct iovec part = { a->page, KST_ACCESS_SIZE };
	int err = kst_access_result(vmsplice(a->fd[1], &part, 1, 0));

	return err ? err : kst_access_drain(a);
}

/* O_DIRECT needs a file that does it: a zram device of our own, which the engine removes. */
static int prepare_direct(struct kst_access *a)
{
	static const char size[] = "1M";
	char path[64], number[16] = "";
	int fd = open("/sys/class/zram-control/hot_add", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno;
	if (read(fd, number, sizeof(number) - 1) > 0)
		a->device = atoi(number);
	close(fd);
	snprintf(path, sizeof(path), "/sys/block/zram%d/disksize", a->device);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, size, sizeof(size) - 1) < 0)
		return errno;
	close(fd);
	snprintf(path, sizeof(path), "/dev/zram%d", a->device);
	a->fd[0] = open(path, O_RDWR | O_CLOEXEC);
	a->fd[1] = open(path, O_RDWR | O_CLOEXEC | O_DIRECT);
	return a->fd[0] < 0 || a->fd[1] < 0 ? errno : 0;
}

static int prepare_direct_read(struct kst_access *a)
{
	int err = prepare_direct(a);

	if (!err)
		err = kst_access_result(pwrite(a->fd[0], a->fill, KST_ACCESS_SIZE, 0));
	return !err && fsync(a->fd[0]) ? errno : err;
}

static int run_direct_read(struct kst_access *a)
{
	return kst_access_result(pread(a->fd[1], a->page, KST_ACCESS_SIZE, 0));
}

static int run_direct_write(struct kst_access *a)
{
	int err = kst_access_result(pwrite(a->fd[1], a->page, KST_ACCESS_SIZE, 0));

	return err ? err : kst_access_result(pread(a->fd[0], a->got, KST_ACCESS_SIZE, 0));
}

/* One request to a ring of its own; 0 or an errno. Its result must be the whole page. */
static int submit(int ring, const struct io_uring_params *p, const struct io_uring_sqe *sqe)
{
	size_t sq_len = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
	size_t cq_len = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
	char *sq = mmap(NULL, sq_len, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	char *cq = mmap(NULL, cq_len, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
	struct io_uring_sqe *sqes = mmap(NULL, sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	int err = 0;

	if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED)
		return errno;
	*sqes = *sqe;
	((uint32_t *)(sq + p->sq_off.array))[0] = 0;
	atomic_store((atomic_uint *)(sq + p->sq_off.tail), 1);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		err = errno;
	else if (!atomic_load((atomic_uint *)(cq + p->cq_off.tail)))
		err = EPROTO;
	if (!err) {
		int res = ((struct io_uring_cqe *)(cq + p->cq_off.cqes))->res;

		err = res < 0 ? -res : res == KST_ACCESS_SIZE ? 0 : EIO;
	}
	munmap(sq, sq_len);
	munmap(cq, cq_len);
	munmap(sqes, sizeof(*sqes));
	return err;
}

static int register_buffer(struct kst_access *a)
{
	struct iovec buffer = { a->page, KST_ACCESS_SIZE };

	return syscall(SYS_io_uring_register, a->ring, IORING_REGISTER_BUFFERS, &buffer, 1) ? errno : 0;
}

/* The ring's parameters, kept in the second page until the request is made. */
static int prepare_ring(struct kst_access *a)
{
	a->second = mmap(NULL, KST_ACCESS_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (a->second == MAP_FAILED)
		return errno;
	a->ring = (int)syscall(SYS_io_uring_setup, 1, (struct io_uring_params *)a->second);
	return a->ring < 0 ? errno : kst_access_fed_pipe(a);
}

static int prepare_ring_write(struct kst_access *a)
{
	int err = prepare_ring(a);

	return err ? err : kst_access_drain(a); /* the pipe must be empty */
}

static int prepare_pinned(struct kst_access *a)
{
	int err = prepare_ring(a);

	return err ? err : register_buffer(a);
}

static int prepare_pinned_write(struct kst_access *a)
{
	int err = prepare_pinned(a);

	return err ? err : kst_access_drain(a);
}

static int ring_request(struct kst_access *a, uint8_t op, uint8_t flags)
{
	const bool reads_page = op == IORING_OP_WRITE || op == IORING_OP_WRITE_FIXED;
	struct io_uring_sqe sqe = {
		.opcode = op,
		.flags = flags,
		.fd = a->fd[reads_page],
		.off = (uint64_t)-1,
		.addr = (uintptr_t)a->page,
		.len = KST_ACCESS_SIZE,
	};
	int err = submit(a->ring, (struct io_uring_params *)a->second, &sqe);

	return err || !reads_page ? err : kst_access_drain(a);
}

static int run_ring_read(struct kst_access *a)
{
	return ring_request(a, IORING_OP_READ, 0);
}

static int run_ring_write(struct kst_access *a)
{
	return ring_request(a, IORING_OP_WRITE, 0);
}

/* By a worker thread of the kernel. */
static int run_ring_read_worker(struct kst_access *a)
{
	return ring_request(a, IORING_OP_READ, IOSQE_ASYNC);
}

static int run_ring_write_worker(struct kst_access *a)
{
	return ring_request(a, IORING_OP_WRITE, IOSQE_ASYNC);
}

static int run_pinned_read(struct kst_access *a)
{
	return ring_request(a, IORING_OP_READ_FIXED, 0);
}

static int run_pinned_write(struct kst_access *a)
{
	return ring_request(a, IORING_OP_WRITE_FIXED, 0);
}

static int run_fixed_read(struct kst_access *a)
{
	int err = register_buffer(a);

	return err ? err : run_pinned_read(a);
}

static int run_fixed_write(struct kst_access *a)
{
	int err = register_buffer(a);

	return err ? err : run_pinned_write(a);
}

static int prepare_file(struct kst_access *a)
{
	a->fd[0] = memfd_create("kst-access", MFD_CLOEXEC);
	return a->fd[0] < 0 ? errno : kst_access_result(pwrite(a->fd[0], a->fill, KST_ACCESS_SIZE, 0));
}

static int aio_request(struct kst_access *a, uint16_t op)
{
	aio_context_t context = 0;
	struct iocb request = {
		.aio_lio_opcode = op,
		.aio_fildes = (uint32_t)a->fd[0],
		.aio_buf = (uintptr_t)a->page,
		.aio_nbytes = KST_ACCESS_SIZE,
	};
	struct iocb *list[] = { &request };
	struct io_event event = { .res = 0 };
	int err = 0;

	if (syscall(SYS_io_setup, 1, &context))
		return errno;
	if (syscall(SYS_io_submit, context, 1, list) != 1 || syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
		err = errno;
	else if (event.res != KST_ACCESS_SIZE)
		err = event.res < 0 ? (int)-event.res : EIO;
	syscall(SYS_io_destroy, context);
	return err;
}

static int run_aio_read(struct kst_access *a)
{
	return aio_request(a, IOCB_CMD_PREAD);
}

static int run_aio_write(struct kst_access *a)
{
	int err = aio_request(a, IOCB_CMD_PWRITE);

	return err ? err : kst_access_result(pread(a->fd[0], a->got, KST_ACCESS_SIZE, 0));
}

const struct kst_accessor kst_io_accessors[] = {
	{ "vmsplice", kst_access_pipe, run_vmsplice, KST_ACCESS_SIZE, 0 },
	{ "direct_write", prepare_direct, run_direct_write, KST_ACCESS_SIZE, 0 },
	{ "direct_read", prepare_direct_read, run_direct_read, 0, KST_ACCESS_SIZE },
	{ "io_uring_write", prepare_ring_write, run_ring_write, KST_ACCESS_SIZE, 0 },
	{ "io_uring_read", prepare_ring, run_ring_read, 0, KST_ACCESS_SIZE },
	{ "io_uring_worker_write", prepare_ring_write, run_ring_write_worker, KST_ACCESS_SIZE, 0 },
	{ "io_uring_worker_read", prepare_ring, run_ring_read_worker, 0, KST_ACCESS_SIZE },
	{ "io_uring_fixed_write", prepare_ring_write, run_fixed_write, KST_ACCESS_SIZE, 0 },
	{ "io_uring_fixed_read", prepare_ring, run_fixed_read, 0, KST_ACCESS_SIZE },
	{ "io_uring_pinned_write", prepare_pinned_write, run_pinned_write, KST_ACCESS_SIZE, 0 },
	{ "io_uring_pinned_read", prepare_pinned, run_pinned_read, 0, KST_ACCESS_SIZE },
	{ "aio_write", prepare_file, run_aio_write, KST_ACCESS_SIZE, 0 },
	{ "aio_read", prepare_file, run_aio_read, 0, KST_ACCESS_SIZE },
	{ NULL, NULL, NULL, 0, 0 },
};
