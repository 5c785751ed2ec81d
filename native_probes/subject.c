/* SPDX-License-Identifier: MIT */
/* subject.c - the loop of a subject process, its handles and its operations. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "subject.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

static const struct kst_op *const tables[] = {
	kst_region_ops,	 kst_memory_ops,  kst_uffd_ops,	   kst_event_ops,   kst_actor_ops, kst_pagemap_ops,
	kst_ticket_ops,	 kst_process_ops, kst_control_ops, kst_latency_ops, kst_path_ops,  kst_node_ops,
	kst_waterfall_ops, kst_throughput_ops,
	kst_evict_ops,	 kst_refusal_ops, kst_access_ops,  kst_race_ops,	   kst_vcpu_ops,  kst_knob_ops,
	kst_pin_ops,	 kst_signal_ops,  kst_held_ops,    kst_contents_ops, kst_hint_ops,
};

json_t *kst_subject_op(void *subject, const json_t *args)
{
	struct kst_subject *s = subject;
	json_t *reply = NULL;
	const char *name;

	if (!kst_arg_str(args, "op", &name, &reply))
		return reply;
	if (s->drain && strcmp(name, "drain")) /* the thread that reads has the queues */
		return kst_error("%s: events are being read; end that first", name);
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		for (const struct kst_op *op = tables[i]; op->name; op++)
			if (!strcmp(op->name, name))
				return kst_lie(s, op->fn(s, args));
	return kst_error("no operation of a subject is called %s", name);
}

char *kst_subject_handle(struct kst_subject *s, const char *line, size_t len)
{
	json_error_t error;
	json_t *request = json_loadb(line, len, 0, &error); /* the agent has refused what is ambiguous */
	char *reply;

	if (!request)
		return kst_reply_line(NULL, kst_error("not JSON: %s", error.text));
	reply = kst_answer(request, kst_subject_op, s);
	json_decref(request);
	return reply;
}

size_t kst_table_add(struct kst_table *table, void *item)
{
	void **grown = realloc(table->items, (table->count + 1) * sizeof(*grown));

	if (!grown)
		abort();
	table->items = grown;
	table->items[table->count++] = item;
	return table->count;
}

void *kst_table_arg(const struct kst_table *table, const json_t *args, const char *name, json_t **reply)
{
	uint64_t handle;

	if (!kst_arg_u64(args, name, &handle, reply))
		return NULL;
	if (handle >= 1 && handle <= table->count && table->items[handle - 1])
		return table->items[handle - 1];
	*reply = kst_error("no %s has the handle %llu", name, (unsigned long long)handle);
	return NULL;
}

void *kst_table_arg_or_last(const struct kst_table *table, const json_t *args, const char *name, json_t **reply)
{
	if (!json_object_get(args, name) && table->count && table->items[table->count - 1])
		return table->items[table->count - 1];
	return kst_table_arg(table, args, name, reply);
}

void kst_table_forget(struct kst_table *table, const void *item)
{
	for (size_t i = 0; i < table->count; i++)
		if (table->items[i] == item)
			table->items[i] = NULL;
}

struct kst_subject *kst_subject_new(int ctl, pid_t agent)
{
	struct kst_subject *s = calloc(1, sizeof(*s));

	if (!s)
		abort();
	s->ctl = ctl;
	s->agent = agent;
	s->pagemap_fd = -1;
	return s;
}

#define FREE_ALL(table, type, free_one)                                              \
	do {                                                                         \
		for (size_t i = 0; i < (table).count; i++)                           \
			if ((table).items[i])                                        \
				free_one((type *)(table).items[i]);                  \
		free((table).items);                                                 \
	} while (0)

void kst_subject_free(struct kst_subject *s)
{
	kst_drain_end(s->drain);
	FREE_ALL(s->tickets, struct kst_ticket, kst_ticket_free);
	FREE_ALL(s->actors, struct kst_actor, kst_actor_free);
	FREE_ALL(s->uffds, struct kst_uffd, kst_uffd_free);
	FREE_ALL(s->regions, struct kst_region, kst_region_free);
	if (s->pagemap_fd >= 0)
		close(s->pagemap_fd);
	free(s);
}

static _Noreturn void leave(const struct kst_subject *s, int status)
{
#if defined(__SANITIZE_ADDRESS__)
	/* What `s` leads to is no leak. A forked child has dropped what was its parent's: no judging there. */
	if (!s->forked && __lsan_do_recoverable_leak_check())
		_exit(23);
#else
	(void)s;
#endif
	_exit(status);
}

static bool read_all(struct kst_subject *s, void *buffer, size_t len)
{
	for (size_t got = 0; got < len;) {
		ssize_t n = read(s->ctl, (char *)buffer + got, len - got);

		if (n > 0)
			got += (size_t)n;
		else if (n == 0 || errno != EINTR)
			return false;
	}
	return true;
}

static bool send_reply(struct kst_subject *s, const char *reply)
{
	struct kst_frame frame = {.kind = KST_REPLY, .len = strlen(reply)};
	struct iovec parts[2] = {{&frame, sizeof(frame)}, {(char *)(uintptr_t)reply, frame.len}};
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};

	while (parts[0].iov_len + parts[1].iov_len) {
		ssize_t n = sendmsg(s->ctl, &message, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return false;
		for (int i = 0; i < 2 && n > 0; i++) {
			size_t part = (size_t)n < parts[i].iov_len ? (size_t)n : parts[i].iov_len;

			parts[i].iov_base = (char *)parts[i].iov_base + part;
			parts[i].iov_len -= part;
			n -= (ssize_t)part;
		}
	}
	return true;
}

_Noreturn void kst_subject_run(struct kst_subject *s)
{
	struct kst_frame frame;
	bool sent = true;

	while (sent && read_all(s, &frame, sizeof(frame))) {
		char *line = frame.len <= KST_LINE_MAX ? malloc(frame.len + 1) : NULL;
		char *reply;

		if (!line || frame.kind != KST_REQUEST || !read_all(s, line, frame.len))
			_exit(3);
		s->next_subject = frame.id;
		reply = kst_subject_handle(s, line, frame.len);
		sent = reply && send_reply(s, reply);
		free(reply);
		free(line);
	}
	leave(s, 0);
}

/* The agent of this process: a signal handler has no argument to find it by. */
static pid_t agent_pid;

static void parent_ended(int signal)
{
	(void)signal;
	if (getppid() != agent_pid)
		_exit(0);
}

/*
 * The kernel sends the signal when the *thread* that forked us ends, which in
 * a Python process need not mean that the process does: so a handler that
 * looks, rather than SIGKILL.
 */
bool kst_die_with_agent(pid_t agent)
{
	struct sigaction action = {.sa_handler = parent_ended, .sa_flags = SA_RESTART};

	agent_pid = agent;
	return !sigaction(SIGUSR1, &action, NULL) && !prctl(PR_SET_PDEATHSIG, SIGUSR1) && getppid() == agent;
}
