/* SPDX-License-Identifier: MIT */
/*
 * paths.c - what one call, or one access a page, costs on the paths beside the trapped access itself.
 *
 * Without `mode` the range is not protected: the price that a kernel's users pay who never asked for it. With `mode` it
 * is registered and protected when the clock starts; async, so that whatever touches it goes on by itself. A path has
 * one thread, so on one vCPU under QEMU -icount the same kernel gives the same number (docs/latency.md). One round is
 * run unmeasured.
 */
#define _GNU_SOURCE
#include "paths.h"
#include "own.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const struct path *const tables[] = { kst_access_paths, kst_call_paths, kst_uffd_paths,
					     kst_event_paths,  kst_swap_paths, kst_numa_paths };

/* The boot has had its users (crowd.c): there are a few gaps since. Those who leave make room for a round's child. */
#define CROWD_STAY 72 /* the last has the 8th number of its node: with those who leave, 48 are left */
#define CROWD_LEAVE 8

/* The range as the path wants to find it. */
static int prepare(struct work *w)
{
	const struct path *path = w->path;
	struct kst_loop *l = &w->loop;
	int err = 0;

	if (path->unmapped)
		err = kst_mem_map_at(&l->mem, l->mem.addr);
	if (path->unmapped || path->gone || kst_mem_remaps(&l->mem))
		w->registered = false;
	if (!err && !path->fill)
		err = kst_mem_renew(&l->mem);
	if (!err && path->absent)
		err = kst_mem_unmap_pages(&l->mem);
	if (!err && path->contents)
		path->contents(&l->mem);
	if (!err && w->tracked && !path->fresh && !w->registered) {
		err = kst_path_register(w);
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
	uint64_t begin = 0, end = 0;

	for (uint64_t round = 0; round <= l->rounds; round++) {
		int err = prepare(w);

		if (err)
			return kst_errno(err, "before the path");
		kst_loop_settle(l, end - begin);
		begin = kst_ticks(l->tsc);
		err = path->run(w);
		end = kst_ticks(l->tsc);
		begin = w->stamps[0] ? w->stamps[0] : begin;
		end = w->stamps[1] ? w->stamps[1] : end;
		kst_hist_add(l->hist, end - begin);
		if (err)
			return kst_errno(err, path->name);
		err = path->after ? path->after(w) : 0;
		if (!err && w->registered && !path->unmapped && !path->gone)
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
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		for (const struct path *path = tables[i]; path->name; path++)
			if (!strcmp(path->name, name))
				return path;
	*reply = kst_error("path: there is no %s", name);
	return NULL;
}

static json_t *map_memory(struct work *w)
{
	size_t len = w->loop.mem.len;
	int shared = MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, private = MAP_PRIVATE | MAP_ANONYMOUS;

	w->bytes_len = len > 1UL << 20 ? len : 1UL << 20;
	w->bytes = kst_own_memory(w->bytes_len);
	w->elsewhere_room = mmap(NULL, len + KST_TABLE_SPAN, PROT_NONE, private | MAP_NORESERVE, -1, 0);
	w->stamps = mmap(NULL, 4096, PROT_READ | PROT_WRITE, shared, -1, 0);
	w->elsewhere = (char *)(((uintptr_t)w->elsewhere_room + KST_TABLE_SPAN - 1) & ~(KST_TABLE_SPAN - 1));
	return w->bytes == MAP_FAILED || w->elsewhere_room == MAP_FAILED || w->stamps == MAP_FAILED ?
		       kst_errno(ENOMEM, "mmap") :
		       NULL;
}

static json_t *set_up(struct work *w)
{
	json_t *reply = map_memory(w);

	if (!reply && w->path->file) {
		w->fd = open(w->path->file, O_RDONLY | O_CLOEXEC);
		if (w->fd < 0)
			reply = kst_errno(errno, w->path->file);
	}
	if (!reply && w->tracked)
		reply = kst_track_open(&w->loop.track, w->loop.track.rwp, true, w->path->features);
	return reply;
}

static void tear_down(struct work *w)
{
	if (w->fd >= 0)
		close(w->fd);
	if (w->elsewhere_room != MAP_FAILED)
		munmap(w->elsewhere_room, w->loop.mem.len + KST_TABLE_SPAN);
	if (w->bytes != MAP_FAILED)
		munmap(w->bytes, w->bytes_len);
	if (w->stamps != MAP_FAILED)
		munmap(w->stamps, 4096);
	kst_loop_free(&w->loop);
}

static json_t *run_path(struct work *w)
{
	json_t *reply = w->path->open ? w->path->open(w) : NULL;

	if (!reply)
		reply = run_rounds(w);
	if (w->path->close)
		w->path->close(w);
	return reply ? reply : kst_ok(kst_loop_reply("histogram", &w->loop));
}

static json_t *op_path_cost(struct kst_subject *s, const json_t *args)
{
	struct work w = { .fd = -1, .elsewhere_room = MAP_FAILED, .bytes = MAP_FAILED, .stamps = MAP_FAILED };
	bool tracked = json_object_get(args, "mode") != NULL;
	json_t *reply = NULL;
	int err;

	w.path = find_path(args, &reply);
	if (!w.path)
		return reply;
	/* Before there is memory that a child would share. */
	err = w.path->forks ? kst_crowd_gather(&w.crowd, CROWD_STAY, CROWD_LEAVE) : 0;
	w.tracked = tracked;
	w.lie = tracked && kst_control(s, "drop_in_child");
	reply = kst_loop_init(&w.loop, s, args, tracked);
	if (!reply && err)
		reply = kst_errno(err, "fork");
	if (!reply && w.path->tracked && !tracked)
		reply = kst_error("path: %s needs a mode", w.path->name);
	if (!reply && w.path->bare && tracked)
		reply = kst_error("path: %s takes no mode", w.path->name);
	if (!reply && kst_arg_range_or(args, "vmas", 1, 1, w.loop.mem.pages, &w.vmas, &reply))
		reply = set_up(&w);
	if (!reply)
		reply = run_path(&w);
	tear_down(&w);
	kst_crowd_end(&w.crowd);
	return reply;
}

const struct kst_op kst_path_ops[] = {
	{ "path_cost", op_path_cost },
	{ NULL, NULL },
};
