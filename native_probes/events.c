/* SPDX-License-Identifier: MIT */
/* events.c - what a userfaultfd tells: poll, read, and reading while a call is under way. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "subject.h"

#define WAIT_MAX_MS (3600u * 1000)
#define DRAINED_MAX 128
#define NON_FAULT_EVENTS                                                                    \
	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | \
	 UFFD_FEATURE_EVENT_UNMAP)

/*
 * Moves what the kernel has into the queue, without waiting, until `limit` are
 * there (what is not asked for stays with the kernel, where poll sees it).
 * Returns 0 or an errno. No malloc: see kst_drain.
 */
static int fill_queue(struct kst_uffd *uffd, size_t limit)
{
	while (uffd->queued < limit) {
		ssize_t n = read(uffd->fd, uffd->queue + uffd->queued, (limit - uffd->queued) * sizeof(uffd->queue[0]));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : errno;
		if (n == 0)
			return 0;
		uffd->queued += (size_t)n / sizeof(uffd->queue[0]);
	}
	return 0;
}

static json_t *describe_fault(const struct kst_subject *s, const struct uffd_msg *msg)
{
	uint64_t flags = msg->arg.pagefault.flags, address = msg->arg.pagefault.address;

	if (kst_control(s, "flip_write_flag"))
		flags ^= UFFD_PAGEFAULT_FLAG_WRITE;
	if (kst_control(s, "wrong_address"))
		address += kst_page_size_at(s, address);
	return json_pack("{s:s, s:I, s:I, s:I}", "event", "pagefault", "flags", (json_int_t)flags, "address",
			 (json_int_t)address, "tid", (json_int_t)msg->arg.pagefault.feat.ptid);
}

static json_t *describe(struct kst_subject *s, const struct kst_uffd *uffd, const struct uffd_msg *msg)
{
	switch (msg->event) {
	case UFFD_EVENT_PAGEFAULT:
		return describe_fault(s, msg);
	case UFFD_EVENT_FORK:
		return json_pack("{s:s, s:I}", "event", "fork", "uffd",
				 (json_int_t)kst_uffd_add(s, (int)msg->arg.fork.ufd, uffd->features));
	case UFFD_EVENT_REMAP:
		return json_pack("{s:s, s:I, s:I, s:I}", "event", "remap", "from", (json_int_t)msg->arg.remap.from, "to",
				 (json_int_t)msg->arg.remap.to, "len", (json_int_t)msg->arg.remap.len);
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		return json_pack("{s:s, s:I, s:I}", "event", msg->event == UFFD_EVENT_REMOVE ? "remove" : "unmap",
				 "start", (json_int_t)msg->arg.remove.start, "end", (json_int_t)msg->arg.remove.end);
	default:
		return json_pack("{s:s, s:i}", "event", "unknown", "number", msg->event);
	}
}

static json_t *op_events(struct kst_subject *s, const json_t *args)
{
	uint64_t max, timeout_ms;
	json_t *reply = NULL, *list, *one;
	struct kst_uffd *uffd = kst_table_arg(&s->uffds, args, "uffd", &reply);
	size_t taken;
	int err;

	if (!uffd || !kst_arg_range_or(args, "max", 64, 1, KST_QUEUE, &max, &reply) ||
	    !kst_arg_range_or(args, "timeout_ms", 0, 0, WAIT_MAX_MS, &timeout_ms, &reply))
		return reply;
	err = fill_queue(uffd, max);
	if (!err && !uffd->queued && timeout_ms) {
		struct pollfd ready = {.fd = uffd->fd, .events = POLLIN};

		if (poll(&ready, 1, (int)timeout_ms) < 0)
			err = errno;
		else
			err = fill_queue(uffd, max);
	}
	if (err && !uffd->queued)
		return kst_errno(err, "read of the userfaultfd");
	list = json_array();
	taken = uffd->queued < max ? uffd->queued : max;
	for (size_t i = 0; i < taken; i++) {
		one = describe(s, uffd, &uffd->queue[i]);
		if (!uffd->reported && kst_control(s, "duplicate_event"))
			json_array_append(list, one);
		uffd->reported = true;
		json_array_append_new(list, one);
	}
	uffd->queued -= taken;
	memmove(uffd->queue, uffd->queue + taken, uffd->queued * sizeof(uffd->queue[0]));
	return kst_ok(json_pack("{s:o}", "events", list));
}

static json_t *op_poll(struct kst_subject *s, const json_t *args)
{
	struct pollfd ready = {.events = POLLIN};
	uint64_t timeout_ms;
	json_t *reply = NULL;
	struct kst_uffd *uffd = kst_table_arg(&s->uffds, args, "uffd", &reply);

	if (!uffd || !kst_arg_range_or(args, "timeout_ms", 0, 0, WAIT_MAX_MS, &timeout_ms, &reply))
		return reply;
	ready.fd = uffd->fd;
	if (poll(&ready, 1, (int)timeout_ms) < 0)
		return kst_errno(errno, "poll");
	return kst_ok(json_pack("{s:i}", "revents", (int)ready.revents));
}

/* The thread must not malloc or take locks: a fork meanwhile would copy them in their locked state. */
struct kst_drain {
	pthread_t thread;
	sem_t started;
	int stop;
	size_t count;
	struct kst_uffd *uffds[DRAINED_MAX];
};

static void *drain_main(void *arg)
{
	struct kst_drain *drain = arg;
	struct pollfd ready[DRAINED_MAX + 1];

	sem_post(&drain->started);
	for (;;) {
		for (size_t i = 0; i < drain->count; i++) /* a full queue is left alone: fd -1 is not polled */
			ready[i] = (struct pollfd){.fd = drain->uffds[i]->queued < KST_QUEUE ? drain->uffds[i]->fd : -1,
						   .events = POLLIN};
		ready[drain->count] = (struct pollfd){.fd = drain->stop, .events = POLLIN};
		if (poll(ready, drain->count + 1, -1) < 0 && errno != EINTR)
			return NULL;
		if (ready[drain->count].revents)
			return NULL;
		for (size_t i = 0; i < drain->count; i++)
			if (ready[i].revents)
				fill_queue(drain->uffds[i], KST_QUEUE);
	}
}

struct kst_drain *kst_drain_begin(struct kst_subject *s)
{
	struct kst_drain *drain = calloc(1, sizeof(*drain));

	if (!drain)
		abort();
	for (size_t i = 0; i < s->uffds.count && drain->count < DRAINED_MAX; i++) {
		struct kst_uffd *uffd = s->uffds.items[i];

		if (uffd && (uffd->features & NON_FAULT_EVENTS))
			drain->uffds[drain->count++] = uffd;
	}
	if (!drain->count) {
		free(drain);
		return NULL;
	}
	drain->stop = eventfd(0, EFD_CLOEXEC);
	if (drain->stop < 0 || sem_init(&drain->started, 0, 0) ||
	    pthread_create(&drain->thread, NULL, drain_main, drain))
		abort();
	/* Its own start is past, and with it whatever locks the C library took for that. */
	while (sem_wait(&drain->started))
		;
	return drain;
}

void kst_drain_end(struct kst_drain *drain)
{
	const uint64_t one = 1;

	if (!drain)
		return;
	if (write(drain->stop, &one, sizeof(one)) != sizeof(one))
		abort();
	pthread_join(drain->thread, NULL);
	kst_drain_forget(drain);
}

void kst_drain_forget(struct kst_drain *drain)
{
	if (!drain)
		return;
	close(drain->stop);
	free(drain);
}

const struct kst_op kst_event_ops[] = {{"events", op_events}, {"poll", op_poll}, {NULL, NULL}};
