/* SPDX-License-Identifier: MIT */
/* refusals.c - what it takes to be refused: ioctls on any pointer, and a process without capabilities. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "subject.h"

#define REQUEST(name) {#name, name}

static const struct {
	const char *name;
	unsigned long request;
} requests[] = {
	REQUEST(UFFDIO_API),	  REQUEST(UFFDIO_REGISTER), REQUEST(UFFDIO_UNREGISTER),	  REQUEST(UFFDIO_WAKE),
	REQUEST(UFFDIO_COPY),	  REQUEST(UFFDIO_ZEROPAGE), REQUEST(UFFDIO_MOVE),	  REQUEST(UFFDIO_WRITEPROTECT),
	REQUEST(UFFDIO_CONTINUE), REQUEST(UFFDIO_POISON),   REQUEST(UFFDIO_RWPROTECT),	  REQUEST(UFFDIO_SET_MODE),
	REQUEST(PAGEMAP_SCAN),
};

/* The kernel, not the C library, judges `addr`: hence syscall(). */
static json_t *call(int fd, unsigned long request, uint64_t addr, const char *name)
{
	return syscall(SYS_ioctl, fd, request, addr) < 0 ? kst_errno(errno, name) : kst_ok(NULL);
}

static json_t *on_pagemap(unsigned long request, uint64_t addr, const char *name)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	json_t *reply;

	if (fd < 0)
		return kst_errno(errno, "open of /proc/self/pagemap");
	reply = call(fd, request, addr, name);
	close(fd);
	return reply;
}

static json_t *op_raw_ioctl(struct kst_subject *s, const json_t *args)
{
	struct kst_uffd *uffd;
	json_t *reply = NULL;
	const char *name;
	uint64_t addr;

	if (!kst_arg_str(args, "request", &name, &reply) ||
	    !kst_arg_range(args, "addr", 0, (1ull << 47) - 1, &addr, &reply))
		return reply;
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		if (strcmp(requests[i].name, name))
			continue;
		if (requests[i].request == PAGEMAP_SCAN)
			return on_pagemap(requests[i].request, addr, name);
		uffd = kst_table_arg(&s->uffds, args, "uffd", &reply);
		return uffd ? call(uffd->fd, requests[i].request, addr, name) : reply;
	}
	return kst_error("argument request: no ioctl is called %s", name);
}

static json_t *op_drop_capabilities(struct kst_subject *s, const json_t *args)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};

	(void)s;
	(void)args;
	return syscall(SYS_capset, &header, none) ? kst_errno(errno, "capset") : kst_ok(NULL);
}

const struct kst_op kst_refusal_ops[] = {
	{"raw_ioctl", op_raw_ioctl}, {"drop_capabilities", op_drop_capabilities}, {NULL, NULL}};
