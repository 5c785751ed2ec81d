/* SPDX-License-Identifier: MIT */
/* pins.c - pages pinned for as long as one likes (FOLL_PIN | FOLL_LONGTERM): buffers registered with io_uring. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kst.h"

#define PINS_MAX 64

static int rings[PINS_MAX];
static size_t used;

bool kst_can_pin(void)
{
	struct io_uring_params params = {0};
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	if (ring >= 0)
		close(ring);
	return ring >= 0;
}

static json_t *op_pin(struct kst_subject *s, const json_t *args)
{
	struct io_uring_params params = {0};
	struct iovec buffer;
	uint64_t addr, len;
	json_t *reply = NULL;
	int ring, err;

	(void)s;
	if (!kst_arg_u64(args, "addr", &addr, &reply) || !kst_arg_u64(args, "len", &len, &reply))
		return reply;
	if (used == PINS_MAX)
		return kst_error("%d pins are held: unpin comes first", PINS_MAX);
	ring = (int)syscall(SYS_io_uring_setup, 1, &params);
	if (ring < 0)
		return kst_errno(errno, "io_uring_setup");
	buffer = (struct iovec){(void *)(uintptr_t)addr, len};
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1)) {
		err = errno;
		close(ring);
		return kst_errno(err, "IORING_REGISTER_BUFFERS");
	}
	rings[used++] = ring;
	return kst_ok(NULL);
}

/* A forked subject has the rings too, and holds the pins with us until it ends. */
static json_t *op_unpin(struct kst_subject *s, const json_t *args)
{
	(void)s;
	(void)args;
	while (used)
		close(rings[--used]);
	return kst_ok(NULL);
}

const struct kst_op kst_pin_ops[] = {{"pin", op_pin}, {"unpin", op_unpin}, {NULL, NULL}};
