/* SPDX-License-Identifier: MIT */
/*
 * traps.c - the kinds of faults that a userfaultfd tells of, and the thread that resolves them.
 *
 * Source of each kind: Documentation/admin-guide/mm/userfaultfd.rst ("Resolving Userfaults", "Write Protect
 * Notifications", "Read-Write Protection").
 */
#define _GNU_SOURCE
#include "traps.h"
#include "uapi.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int protect(const struct kst_loop *l)
{
	int err = l->mem.thp ? kst_track_renew(&l->track, &l->mem) : 0;

	return err ? err : kst_track_protect(&l->track, l->mem.addr, l->mem.len, true);
}

static int unprotect_page(const struct kst_loop *l, char *page, bool wake)
{
	const struct uffdio_range range = { .start = (uintptr_t)page, .len = l->mem.page_size };
	struct uffdio_rwprotect rwp = { .range = range, .mode = UFFDIO_RWPROTECT_MODE_DONTWAKE };
	struct uffdio_writeprotect wp = { .range = range, .mode = UFFDIO_WRITEPROTECT_MODE_DONTWAKE };

	if (wake)
		return kst_track_protect(&l->track, page, l->mem.page_size, false);
	if (l->track.rwp)
		return ioctl(l->track.uffd, UFFDIO_RWPROTECT, &rwp) ? errno : 0;
	return ioctl(l->track.uffd, UFFDIO_WRITEPROTECT, &wp) ? errno : 0;
}

static int drop(const struct kst_loop *l) { return l->track.lie ? 0 : kst_mem_drop(&l->mem); }
static int unmap(const struct kst_loop *l) { return l->track.lie ? 0 : kst_mem_unmap_pages(&l->mem); }

static int copy_page(const struct kst_loop *l, char *page, bool wake)
{
	struct uffdio_copy copy = { .dst = (uintptr_t)page, .src = (uintptr_t)l->source, .len = l->mem.page_size };

	copy.mode = wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE;
	return ioctl(l->track.uffd, UFFDIO_COPY, &copy) ? errno : 0;
}

static int zero_page(const struct kst_loop *l, char *page, bool wake)
{
	struct uffdio_zeropage zero = { .range = { .start = (uintptr_t)page, .len = l->mem.page_size } };

	zero.mode = wake ? 0 : UFFDIO_ZEROPAGE_MODE_DONTWAKE;
	return ioctl(l->track.uffd, UFFDIO_ZEROPAGE, &zero) ? errno : 0;
}

static int continue_page(const struct kst_loop *l, char *page, bool wake)
{
	struct uffdio_continue go = { .range = { .start = (uintptr_t)page, .len = l->mem.page_size } };

	go.mode = wake ? 0 : UFFDIO_CONTINUE_MODE_DONTWAKE;
	return ioctl(l->track.uffd, UFFDIO_CONTINUE, &go) ? errno : 0;
}

static const struct kst_trap traps[] = {
	{ "wp", UFFDIO_REGISTER_MODE_WP, true, protect, unprotect_page },
	{ "rwp", UFFDIO_REGISTER_MODE_RWP, true, protect, unprotect_page },
	{ "missing", UFFDIO_REGISTER_MODE_MISSING, false, drop, copy_page },
	{ "missing-zeropage", UFFDIO_REGISTER_MODE_MISSING, false, drop, zero_page },
	{ "minor", UFFDIO_REGISTER_MODE_MINOR, false, unmap, continue_page },
};

const struct kst_trap *kst_trap_find(const json_t *args, json_t **reply)
{
	const char *mode;

	if (!kst_arg_str(args, "mode", &mode, reply))
		return NULL;
	for (size_t i = 0; i < sizeof(traps) / sizeof(traps[0]); i++)
		if (!strcmp(traps[i].mode, mode))
			return &traps[i];
	*reply = kst_error("mode: must be wp, rwp, missing, missing-zeropage or minor");
	return NULL;
}

json_t *kst_trap_open(const struct kst_trap *trap, struct kst_loop *l, bool async)
{
	json_t *reply;
	int err;

	if (async && !trap->protects)
		return kst_error("async: %s faults are always told", trap->mode);
	if (trap->protects)
		reply = kst_track_open(&l->track, trap->registers == UFFDIO_REGISTER_MODE_RWP, async, 0);
	else
		reply = kst_uffd_open(&l->track.uffd, 0);
	err = reply ? 0 : kst_uffd_register(l->track.uffd, l->mem.addr, l->mem.len, trap->registers);
	return err ? kst_errno(err, "UFFDIO_REGISTER") : reply;
}

int kst_trap_read(const struct kst_loop *l, char **page)
{
	struct uffd_msg msg;
	ssize_t got = read(l->track.uffd, &msg, sizeof(msg));

	if (got < 0 && errno == EAGAIN)
		return EAGAIN;
	if (got != sizeof(msg) || msg.event != UFFD_EVENT_PAGEFAULT)
		return EPROTO;
	*page = (char *)(uintptr_t)(msg.arg.pagefault.address & ~(l->mem.page_size - 1));
	return 0;
}

static void *handle_faults(void *arg)
{
	struct kst_handler *h = arg;
	const struct kst_loop *l = h->loop;
	struct pollfd fds[] = { { .fd = l->track.uffd, .events = POLLIN }, { .fd = h->stop, .events = POLLIN } };
	struct uffdio_range whole = { .start = (uintptr_t)l->mem.addr, .len = l->mem.len };

	for (;;) {
		int err = 0;

		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			err = errno;
		if (fds[1].revents)
			return NULL;
		if (!err)
			err = h->serve(h);
		if (err && err != EAGAIN) { /* free the accessing thread, which then reports the error */
			h->err = err;
			ioctl(l->track.uffd, UFFDIO_UNREGISTER, &whole);
			return NULL;
		}
	}
}

json_t *kst_handler_start(struct kst_handler *h)
{
	int err;

	h->stop = eventfd(0, EFD_CLOEXEC);
	if (h->stop < 0)
		return kst_errno(errno, "eventfd");
	err = pthread_create(&h->thread, NULL, handle_faults, h);
	if (!err)
		return NULL;
	close(h->stop);
	return kst_errno(err, "pthread_create");
}

json_t *kst_handler_end(struct kst_handler *h)
{
	eventfd_write(h->stop, 1);
	pthread_join(h->thread, NULL);
	close(h->stop);
	return h->err ? kst_errno(h->err, "the fault handler") : NULL;
}
