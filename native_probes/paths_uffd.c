/* SPDX-License-Identifier: MIT */
/* paths_uffd.c - one call on a userfaultfd, over the whole range. Source: fs/userfaultfd.c, mm/userfaultfd.c. */
#define _GNU_SOURCE
#include "paths.h"
#include "uapi.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

int kst_path_register(struct work *w) { return kst_track_register(&w->loop.track, &w->loop.mem, 0); }

static int run_unregister(struct work *w)
{
	struct uffdio_range range = { .start = (uintptr_t)w->loop.mem.addr, .len = w->loop.mem.len };

	return ioctl(w->loop.track.uffd, UFFDIO_UNREGISTER, &range) ? errno : 0;
}

static int run_close(struct work *w)
{
	int uffd = w->loop.track.uffd;

	w->loop.track.uffd = -1;
	return close(uffd) ? errno : 0;
}

static int open_again(struct work *w)
{
	json_t *reply = kst_track_open(&w->loop.track, w->loop.track.rwp, true, 0);

	json_decref(reply);
	return reply ? EOPNOTSUPP : 0;
}

/* Every second part of the range may only be read, so it is `vmas` mappings. */
static int cut(struct work *w)
{
	const struct kst_mem *mem = &w->loop.mem;
	size_t part = mem->pages / w->vmas * mem->page_size;

	for (uint64_t i = 1; i < w->vmas; i += 2)
		if (mprotect(mem->addr + i * part, i == w->vmas - 1 ? mem->len - i * part : part, PROT_READ))
			return errno;
	return 0;
}

static int run_set_mode(struct work *w) { return kst_track_set_async(&w->loop.track, false); }

static int set_async(struct work *w)
{
	if (mprotect(w->loop.mem.addr, w->loop.mem.len, PROT_READ | PROT_WRITE))
		return errno;
	return kst_track_set_async(&w->loop.track, true);
}

static json_t *open_bare(struct work *w, const char *addr, uint64_t modes)
{
	int *uffd = &w->loop.track.uffd;
	json_t *reply = *uffd < 0 ? kst_uffd_open(uffd, 0) : NULL;
	int err = reply ? 0 : kst_uffd_register(*uffd, addr, w->loop.mem.len, modes);

	return err ? kst_errno(err, "UFFDIO_REGISTER") : reply;
}

static json_t *open_missing(struct work *w) { return open_bare(w, w->loop.mem.addr, UFFDIO_REGISTER_MODE_MISSING); }
static json_t *open_minor(struct work *w) { return open_bare(w, w->loop.mem.addr, UFFDIO_REGISTER_MODE_MINOR); }
static int drop(struct work *w) { return kst_mem_drop(&w->loop.mem); }
static int unmap(struct work *w) { return kst_mem_unmap_pages(&w->loop.mem); }

static int run_copy(struct work *w)
{
	const struct kst_mem *mem = &w->loop.mem;
	struct uffdio_copy copy = { .dst = (uintptr_t)mem->addr, .src = (uintptr_t)w->bytes, .len = mem->len };

	return ioctl(w->loop.track.uffd, UFFDIO_COPY, &copy) ? errno : 0;
}

static int run_zeropage(struct work *w)
{
	struct uffdio_zeropage zero = { .range = { .start = (uintptr_t)w->loop.mem.addr, .len = w->loop.mem.len } };

	return ioctl(w->loop.track.uffd, UFFDIO_ZEROPAGE, &zero) ? errno : 0;
}

static int run_continue(struct work *w)
{
	struct uffdio_continue go = { .range = { .start = (uintptr_t)w->loop.mem.addr, .len = w->loop.mem.len } };

	return ioctl(w->loop.track.uffd, UFFDIO_CONTINUE, &go) ? errno : 0;
}

/* The destination is `elsewhere`; the source is the range, protected or not. */
static json_t *open_move(struct work *w)
{
	int err = kst_mem_map_at(&w->loop.mem, w->elsewhere);

	return err ? kst_errno(err, "mmap") : open_bare(w, w->elsewhere, UFFDIO_REGISTER_MODE_MISSING);
}

static int run_move(struct work *w)
{
	struct uffdio_move move = {
		.dst = (uintptr_t)w->elsewhere, .src = (uintptr_t)w->loop.mem.addr, .len = w->loop.mem.len };

	return ioctl(w->loop.track.uffd, UFFDIO_MOVE, &move) ? errno : 0;
}

static int empty_destination(struct work *w)
{
	return madvise(w->elsewhere, w->loop.mem.len, MADV_DONTNEED) ? errno : 0;
}

const struct path kst_uffd_paths[] = {
	{ .name = "register", .run = kst_path_register, .after = run_unregister, .tracked = true, .fresh = true },
	{ .name = "unregister", .before = kst_path_register, .run = run_unregister, .tracked = true, .fresh = true },
	{ .name = "unregister-armed", .run = run_unregister, .tracked = true, .unmapped = true },
	{ .name = "close-armed", .run = run_close, .after = open_again, .tracked = true, .gone = true },
	{ .name = "set-mode", .before = cut, .run = run_set_mode, .after = set_async, .tracked = true },
	{ .name = "copy", .open = open_missing, .before = drop, .run = run_copy, .bare = true, .fill = true },
	{ .name = "zeropage", .open = open_missing, .before = drop, .run = run_zeropage, .bare = true, .fill = true },
	{ .name = "continue", .open = open_minor, .before = unmap, .run = run_continue, .bare = true, .fill = true },
	{ .name = "move", .open = open_move, .run = run_move, .after = empty_destination },
	{ .name = NULL },
};
