/* SPDX-License-Identifier: MIT */
/* paths_access.c - one access to each page: by the thread itself, or by the kernel for it. Source: mm/memory.c, mm/gup.c. */
#define _GNU_SOURCE
#include "paths.h"

#include <errno.h>
#include <signal.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int run_read(struct work *w)
{
	kst_mem_touch(&w->loop.mem, false);
	return 0;
}

static int run_write(struct work *w)
{
	kst_mem_touch(&w->loop.mem, true);
	return 0;
}

/* What a clock that counts instructions must show, see docs/latency.md. */
static int run_spin(struct work *w)
{
	(void)w;
	kst_spin(1000); /* few: up to 4,096 ticks a histogram is exact */
	return 0;
}

/* Into the kernel and out again, once for each page: there is no such call. */
static int run_empty_call(struct work *w)
{
	for (uint64_t i = 0; i < w->loop.mem.pages; i++)
		if (syscall(-1) != -1)
			return EPROTO;
	return 0;
}

int kst_path_stop_child(struct work *w)
{
	if (w->child <= 0)
		return 0;
	kill(w->child, SIGKILL);
	return waitpid(w->child, NULL, 0) == w->child ? 0 : errno;
}

int kst_path_start_child(struct work *w)
{
	w->child = fork();
	if (w->child == 0) {
		for (;;)
			pause();
	}
	return w->child < 0 ? errno : 0;
}

/* The clock runs while the child, which no userfaultfd knows of, reads what it got from us. */
static int run_child_read(struct work *w)
{
	int status;

	w->child = fork();
	if (w->child == 0) {
		if (w->lie)
			kst_mem_unmap_pages(&w->loop.mem);
		kst_path_touch_stamps(w);
		kst_loop_settle(&w->loop, 0);
		w->stamps[0] = kst_ticks(w->loop.tsc);
		kst_mem_touch(&w->loop.mem, false);
		w->stamps[1] = kst_ticks(w->loop.tsc);
		_exit(0);
	}
	if (w->child < 0 || waitpid(w->child, &status, 0) != w->child)
		return errno;
	return status ? ECHILD : 0;
}

static int run_gup(struct work *w)
{
	struct iovec to = { w->bytes, w->loop.mem.len }, from = { w->loop.mem.addr, w->loop.mem.len };
	ssize_t got = process_vm_readv(getpid(), &to, 1, &from, 1, 0);

	return got < 0 ? errno : (size_t)got == from.iov_len ? 0 : EIO;
}

static int run_gup_write(struct work *w)
{
	struct iovec from = { w->bytes, w->loop.mem.len }, to = { w->loop.mem.addr, w->loop.mem.len };
	ssize_t put = process_vm_writev(getpid(), &from, 1, &to, 1, 0);

	return put < 0 ? errno : (size_t)put == to.iov_len ? 0 : EIO;
}

const struct path kst_access_paths[] = {
	{ .name = "spin", .run = run_spin },
	{ .name = "empty-call", .run = run_empty_call },
	{ .name = "read", .run = run_read },
	{ .name = "write", .run = run_write },
	{ .name = "absent-read", .run = run_read, .absent = true },
	{ .name = "absent-write", .run = run_write, .absent = true },
	{ .name = "cow", .before = kst_path_start_child, .run = run_write, .after = kst_path_stop_child },
	{ .name = "fork", .run = kst_path_start_child, .after = kst_path_stop_child, .forks = true },
	{ .name = "child-read", .run = run_child_read },
	{ .name = "gup", .run = run_gup },
	{ .name = "gup-write", .run = run_gup_write },
	{ .name = NULL },
};
