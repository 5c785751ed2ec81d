/* SPDX-License-Identifier: MIT */
/*
 * paths_calls.c - calls on the whole range that know nothing of userfaultfd, and the end of a process that has one.
 * Source: mm/mprotect.c, mm/mremap.c, mm/mmap.c, mm/madvise.c, kernel/exit.c, fs/proc/task_mmu.c.
 */
#define _GNU_SOURCE
#include "paths.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int run_mprotect(struct work *w)
{
	return mprotect(w->loop.mem.addr, w->loop.mem.len, PROT_READ) ? errno : 0;
}

static int make_writable(struct work *w)
{
	return mprotect(w->loop.mem.addr, w->loop.mem.len, PROT_READ | PROT_WRITE) ? errno : 0;
}

static int run_munmap(struct work *w) { return munmap(w->loop.mem.addr, w->loop.mem.len) ? errno : 0; }

int kst_path_mremap(struct work *w)
{
	const struct kst_mem *mem = &w->loop.mem;
	void *to = mremap(mem->addr, mem->len, mem->len, MREMAP_MAYMOVE | MREMAP_FIXED, w->elsewhere);

	return to == MAP_FAILED ? errno : 0;
}

int kst_path_empty_elsewhere(struct work *w)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;

	return mmap(w->elsewhere, w->loop.mem.len, PROT_NONE, flags, -1, 0) == MAP_FAILED ? errno : 0;
}

static int run_dontneed(struct work *w) { return kst_mem_unmap_pages(&w->loop.mem); }

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
		got = read(w->fd, w->bytes, 1UL << 20);
	while (got > 0);
	return got < 0 ? errno : 0;
}

/* The child's own range, protected if ours is; then it ends. The clock starts with its last instruction before that. */
static void child_of_exit(struct work *w)
{
	struct kst_loop *l = &w->loop;

	if (kst_mem_map_at(&l->mem, l->mem.addr))
		_exit(1);
	kst_mem_touch(&l->mem, !l->mem.zero);
	if (w->tracked) {
		if (kst_track_open(&l->track, l->track.rwp, true, 0) || kst_path_register(w) ||
		    kst_track_protect(&l->track, l->mem.addr, l->mem.len, true))
			_exit(1);
	}
	kst_path_touch_stamps(w);
	kst_loop_settle(l, UINT64_MAX);
	w->stamps[0] = kst_ticks(l->tsc);
	_exit(0);
}

static int run_exit(struct work *w)
{
	int status;

	w->child = fork();
	if (w->child == 0)
		child_of_exit(w);
	if (w->child < 0 || waitpid(w->child, &status, 0) != w->child)
		return errno;
	return status ? ECHILD : 0;
}

const struct path kst_call_paths[] = {
	{ .name = "mprotect", .run = run_mprotect, .after = make_writable },
	{ .name = "mremap", .run = kst_path_mremap, .after = kst_path_empty_elsewhere, .unmapped = true },
	{ .name = "munmap", .run = run_munmap, .unmapped = true },
	{ .name = "exit", .run = run_exit, .forks = true },
	{ .name = "dontneed", .run = run_dontneed },
	{ .name = "pagemap", .file = "/proc/self/pagemap", .run = run_pagemap },
	{ .name = "smaps", .file = "/proc/self/smaps", .run = run_smaps },
	{ .name = NULL },
};
