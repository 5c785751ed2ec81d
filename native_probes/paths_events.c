/* SPDX-License-Identifier: MIT */
/*
 * paths_events.c - calls that a userfaultfd tells of, and that end when a second thread has read their event.
 * Source: Documentation/admin-guide/mm/userfaultfd.rst (Non-cooperative userfaultfd), fs/userfaultfd.c
 * (dup_userfaultfd_complete, mremap_userfaultfd_complete).
 */
#define _GNU_SOURCE
#include "paths.h"
#include "uapi.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 10 /* seconds for the reader to say what it read */

/* Reads one event; which is right is for `after` to say. Of a fork it brings the child's userfaultfd. */
static int serve(struct kst_handler *h)
{
	struct work *w = h->arg;
	ssize_t got = read(w->loop.track.uffd, &w->event, sizeof(w->event));

	if (got < 0)
		return errno;
	if (got != sizeof(w->event))
		return EPROTO;
	h->faults++;
	return sem_post(&w->told) ? errno : 0;
}

static json_t *start_reader(struct work *w)
{
	json_t *reply;

	w->reader = (struct kst_handler){ .loop = &w->loop, .serve = serve, .arg = w };
	reply = sem_init(&w->told, 0, 0) ? kst_errno(errno, "sem_init") : kst_handler_start(&w->reader);
	if (reply)
		w->reader.loop = NULL;
	return reply;
}

static void stop_reader(struct work *w)
{
	if (w->reader.loop)
		json_decref(kst_handler_end(&w->reader));
}

/* EPROTO unless one event was read for the call, and of this kind: else the path was not what its name says. */
static int told(struct work *w, unsigned int kind)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += PATIENCE;
	if (sem_timedwait(&w->told, &end))
		return EPROTO;
	return sem_trywait(&w->told) && w->event.event == kind ? 0 : EPROTO;
}

/* The child first: then its userfaultfd, which the event brought, protects nothing any more. */
static int end_child(struct work *w)
{
	int err = told(w, UFFD_EVENT_FORK), stopped = kst_path_stop_child(w);

	if (!err && close((int)w->event.arg.fork.ufd))
		err = errno;
	return err ? err : stopped;
}

static int end_mremap(struct work *w)
{
	int err = told(w, UFFD_EVENT_REMAP);

	if (!err && w->event.arg.remap.to != (uintptr_t)w->elsewhere)
		err = EPROTO;
	return err ? err : kst_path_empty_elsewhere(w);
}

const struct path kst_event_paths[] = {
	{ .name = "fork-event", .open = start_reader, .run = kst_path_start_child, .after = end_child, .close = stop_reader,
	  .tracked = true, .forks = true, .features = UFFD_FEATURE_EVENT_FORK },
	{ .name = "mremap-event", .open = start_reader, .run = kst_path_mremap, .after = end_mremap,
	  .close = stop_reader, .tracked = true, .unmapped = true, .features = UFFD_FEATURE_EVENT_REMAP },
	{ .name = NULL },
};
