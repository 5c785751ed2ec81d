/* SPDX-License-Identifier: MIT */
/*
 * paths.c - what one call, or one access a page, costs on the paths beside the trapped access itself.
 *
 * Without `mode` no userfaultfd is there: the price that a kernel's users pay who never asked for one. With `mode` the
 * range is registered and protected when the clock starts; async, so that whatever
 * touches it goes on by itself. A path has one thread, so on one vCPU under QEMU -icount the same kernel gives the same
 * number (docs/latency.md). One round is run unmeasured.
 */
#define _GNU_SOURCE
#include "loop.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

struct work {
	struct kst_loop loop;
	const struct path *path;
	bool tracked, registered;
	char *elsewhere; /* an empty mapping of the range's length */
	char *bytes;     /* as much ordinary memory */
	int fd;          /* the path's file of /proc/self */
	pid_t child;
};

/* The clock runs during `run` and nothing else; each gives 0 or an errno. */
struct path {
	const char *name;
	const char *file;         /* opened as `fd` */
	int (*before)(struct work *w);
	int (*run)(struct work *w);
	int (*after)(struct work *w);
	bool tracked;  /* needs `mode` */
	bool absent;   /* the pages are unmapped when the clock starts: anon has none then, shmem keeps its own */
	bool unmapped; /* the mapping is made anew for each round */
	bool fresh;    /* not registered yet */
};

static int touch(const struct kst_mem *mem, bool write)
{
	for (uint64_t i = 0; i < mem->pages; i++) {
		volatile uint64_t *word = (volatile uint64_t *)(mem->addr + i * mem->page_size);

		if (write)
			*word = i + 1;
		else
			(void)*word;
	}
	return 0;
}

static int run_read(struct work *w) { return touch(&w->loop.mem, false); }
static int run_write(struct work *w) { return touch(&w->loop.mem, true); }

/* Two instructions a turn and nothing else: what a clock that counts instructions must show, see docs/latency.md. */
static int run_spin(struct work *w)
{
	(void)w;
#ifdef __x86_64__
	uint64_t turns = 1000; /* few: up to 4,096 ticks a histogram is exact */

	__asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(turns) : : "cc");
#endif
	return 0;
}

static int stop_child(struct work *w)
{
	if (w->child <= 0)
		return 0;
	kill(w->child, SIGKILL);
	return waitpid(w->child, NULL, 0) == w->child ? 0 : errno;
}

/* The child shares the pages and sleeps; it is killed after the round. */
static int start_child(struct work *w)
{
	w->child = fork();
	if (w->child == 0) {
		for (;;)
			pause();
	}
	return w->child < 0 ? errno : 0;
}

static int run_mprotect(struct work *w)
{
	return mprotect(w->loop.mem.addr, w->loop.mem.len, PROT_READ) ? errno : 0;
}

static int make_writable(struct work *w)
{
	return mprotect(w->loop.mem.addr, w->loop.mem.len, PROT_READ | PROT_WRITE) ? errno : 0;
}

static int run_munmap(struct work *w) { return munmap(w->loop.mem.addr, w->loop.mem.len) ? errno : 0; }

static int run_mremap(struct work *w)
{
	const struct kst_mem *mem = &w->loop.mem;
	void *to = mremap(mem->addr, mem->len, mem->len, MREMAP_MAYMOVE | MREMAP_FIXED, w->elsewhere);

	return to == MAP_FAILED ? errno : 0;
}

/* `elsewhere` holds the range now: an empty mapping again. */
static int empty_elsewhere(struct work *w)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;

	return mmap(w->elsewhere, w->loop.mem.len, PROT_NONE, flags, -1, 0) == MAP_FAILED ? errno : 0;
}

static int run_dontneed(struct work *w)
{
	return madvise(w->loop.mem.addr, w->loop.mem.len, MADV_DONTNEED) ? errno : 0;
}

static int run_pagemap(struct work *w)
{
	const struct kst_mem *mem = &w->loop.mem;
	size_t want = mem->len / 4096 * sizeof(uint64_t);
	ssize_t got = pread(w->fd, w->bytes, want, (off_t)((uintptr_t)mem->addr / 4096 * sizeof(uint64_t)));

	return got < 0 ? errno : (size_t)got == want ? 0 : EIO;
}

static int run_smaps(struct work *w)
{
	ssize_t got;

	if (lseek(w->fd, 0, SEEK_SET))
		return errno;
	do
		got = read(w->fd, w->bytes, w->loop.mem.len);
	while (got > 0);
	return got < 0 ? errno : 0;
}

static int run_gup(struct work *w)
{
	struct iovec to = { w->bytes, w->loop.mem.len }, from = { w->loop.mem.addr, w->loop.mem.len };
	ssize_t got = process_vm_readv(getpid(), &to, 1, &from, 1, 0);

	return got < 0 ? errno : (size_t)got == from.iov_len ? 0 : EIO;
}

static int run_register(struct work *w) { return kst_track_register(&w->loop.track, &w->loop.mem, 0); }

static int run_unregister(struct work *w)
{
	struct uffdio_range range = { .start = (uintptr_t)w->loop.mem.addr, .len = w->loop.mem.len };

	return ioctl(w->loop.track.uffd, UFFDIO_UNREGISTER, &range) ? errno : 0;
}

static int run_set_mode(struct work *w) { return kst_track_set_async(&w->loop.track, false); }
static int set_async(struct work *w) { return kst_track_set_async(&w->loop.track, true); }

static const struct path paths[] = {
	{ .name = "spin", .run = run_spin },
	{ .name = "read", .run = run_read },
	{ .name = "write", .run = run_write },
	{ .name = "absent-read", .run = run_read, .absent = true },
	{ .name = "absent-write", .run = run_write, .absent = true },
	{ .name = "cow", .before = start_child, .run = run_write, .after = stop_child },
	{ .name = "fork", .run = start_child, .after = stop_child },
	{ .name = "mprotect", .run = run_mprotect, .after = make_writable },
	{ .name = "mremap", .run = run_mremap, .after = empty_elsewhere, .unmapped = true },
	{ .name = "munmap", .run = run_munmap, .unmapped = true },
	{ .name = "dontneed", .run = run_dontneed },
	{ .name = "pagemap", .file = "/proc/self/pagemap", .run = run_pagemap },
	{ .name = "smaps", .file = "/proc/self/smaps", .run = run_smaps },
	{ .name = "gup", .run = run_gup },
	{ .name = "register", .run = run_register, .after = run_unregister, .tracked = true, .fresh = true },
	{ .name = "unregister", .before = run_register, .run = run_unregister, .tracked = true, .fresh = true },
	{ .name = "unregister-armed", .run = run_unregister, .tracked = true, .unmapped = true },
	{ .name = "set-mode", .run = run_set_mode, .after = set_async, .tracked = true },
};

static int map_anew(struct work *w)
{
	struct kst_mem *mem = &w->loop.mem;
	int flags = MAP_FIXED | (mem->fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);

	if (mmap(mem->addr, mem->len, PROT_READ | PROT_WRITE, flags, mem->fd, 0) == MAP_FAILED)
		return errno;
	madvise(mem->addr, mem->len, MADV_NOHUGEPAGE);
	w->registered = false;
	return 0;
}

/* The range as the path wants to find it. */
static int prepare(struct work *w)
{
	const struct path *path = w->path;
	struct kst_loop *l = &w->loop;
	int err = path->unmapped ? map_anew(w) : 0;

	if (!err)
		touch(&l->mem, true);
	if (!err && path->absent)
		err = run_dontneed(w);
	if (!err && w->tracked && !path->fresh && !w->registered) {
		err = run_register(w);
		w->registered = !err;
	}
	if (!err && w->registered)
		err = kst_track_protect(&l->track, l->mem.addr, l->mem.len, true);
	return err || !path->before ? err : path->before(w);
}

static json_t *run_rounds(struct work *w)
{
	const struct path *path = w->path;
	struct kst_loop *l = &w->loop;

	for (uint64_t round = 0; round <= l->rounds; round++) {
		int err = prepare(w);
		uint64_t begin;

		if (err)
			return kst_errno(err, "before the path");
		begin = kst_ticks(l->tsc);
		err = path->run(w);
		kst_hist_add(l->hist, kst_ticks(l->tsc) - begin);
		if (err)
			return kst_errno(err, path->name);
		err = path->after ? path->after(w) : 0;
		if (!err && w->registered && !path->unmapped)
			err = kst_track_protect(&l->track, l->mem.addr, l->mem.len, false);
		if (err)
			return kst_errno(err, "after the path");
		if (round == 0)
			kst_hist_clear(l->hist);
	}
	return NULL;
}

static const struct path *find_path(const json_t *args, json_t **reply)
{
	const char *name;

	if (!kst_arg_str(args, "path", &name, reply))
		return NULL;
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		if (!strcmp(paths[i].name, name))
			return &paths[i];
	*reply = kst_error("path: there is no %s", name);
	return NULL;
}

static json_t *set_up(struct work *w)
{
	size_t len = w->loop.mem.len;

	w->elsewhere = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	w->bytes = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (w->elsewhere == MAP_FAILED || w->bytes == MAP_FAILED)
		return kst_errno(errno, "mmap");
	if (w->path->file) {
		w->fd = open(w->path->file, O_RDONLY | O_CLOEXEC);
		if (w->fd < 0)
			return kst_errno(errno, w->path->file);
	}
	return w->tracked ? kst_track_open(&w->loop.track, w->loop.track.rwp, true, 0) : NULL;
}

static json_t *op_path_cost(struct kst_subject *s, const json_t *args)
{
	struct work w = { .fd = -1, .elsewhere = MAP_FAILED, .bytes = MAP_FAILED };
	bool tracked = json_object_get(args, "mode") != NULL;
	json_t *reply = kst_loop_init(&w.loop, s, args, tracked);

	w.tracked = tracked;
	if (!reply)
		w.path = find_path(args, &reply);
	if (!reply && w.path->tracked && !tracked)
		reply = kst_error("path: %s needs a mode", w.path->name);
	if (!reply)
		reply = set_up(&w);
	if (!reply)
		reply = run_rounds(&w);
	if (!reply)
		reply = kst_ok(kst_loop_reply("histogram", &w.loop));
	if (w.fd >= 0)
		close(w.fd);
	if (w.elsewhere != MAP_FAILED)
		munmap(w.elsewhere, w.loop.mem.len);
	if (w.bytes != MAP_FAILED)
		munmap(w.bytes, w.loop.mem.len);
	kst_loop_free(&w.loop);
	return reply;
}

const struct kst_op kst_path_ops[] = {
	{ "path_cost", op_path_cost },
	{ NULL, NULL },
};
