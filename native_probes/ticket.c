/* SPDX-License-Identifier: MIT */
/* ticket.c - what has become of an access: done, asleep in the kernel, or neither yet. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "actor.h"

#define WAIT_MAX_MS (3600u * 1000)
#define LOOK_FIRST_US 50
#define LOOK_MAX_US 2000
#define SIGHTINGS 3
#define PROGRESS 2 /* accesses, of which the second began after somebody asked */

/* What a request waits for; RUNNING: PROGRESS more accesses completed. */
enum want { EITHER, DONE, BLOCKED, RUNNING, WANTS };

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* A file of the thread in /proc, opened when it is first asked for: most threads never are. */
static void read_again(const struct kst_actor *a, int *fd, const char *name, char *buffer, size_t size)
{
	char path[64];
	ssize_t n;

	if (*fd < 0) {
		snprintf(path, sizeof(path), "/proc/self/task/%d/%s", (int)a->tid, name);
		*fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	n = *fd >= 0 ? pread(*fd, buffer, size - 1, 0) : -1;
	buffer[n > 0 ? n : 0] = 0;
}

static bool asleep(struct kst_actor *a)
{
	char stat[256];
	const char *state;

	read_again(a, &a->stat_fd, "stat", stat, sizeof(stat));
	state = strrchr(stat, ')');
	return state && state[1] && (state[2] == 'S' || state[2] == 'D');
}

/*
 * Does the actor sleep in a userfault? The kernel says where a thread sleeps
 * only when it has left the CPU for good (get_wchan() in kernel/sched/core.c):
 * one that was merely preempted, or is between setting its state and sleeping,
 * shows as "0".
 *
 * A kernel without symbol names always says "0". There the sign is that it
 * sleeps outside of any system call ("-1" in `syscall`), which only a fault
 * can do; faults also sleep for short on locks, so it must be seen again and
 * again.
 */
static bool blocked(struct kst_actor *a, char *wchan, size_t size)
{
	char call[64];

	read_again(a, &a->wchan_fd, "wchan", wchan, size);
	if (!strcmp(wchan, "handle_userfault"))
		return true;
	if (*wchan && strcmp(wchan, "0"))
		return false;
	if (!asleep(a)) {
		a->asleep_in_fault = 0;
		return false;
	}
	read_again(a, &a->syscall_fd, "syscall", call, sizeof(call));
	a->asleep_in_fault = strncmp(call, "-1 ", 3) ? 0 : a->asleep_in_fault + 1;
	return a->asleep_in_fault >= SIGHTINGS;
}

static uint64_t completed(const struct kst_ticket *t)
{
	return __atomic_load_n(t->counter, __ATOMIC_RELAXED);
}

static json_t *describe_done(struct kst_ticket *t)
{
	json_t *result = json_pack("{s:s, s:I, s:I, s:I}", "state", "done", "value", (json_int_t)t->result, "ticks",
				   (json_int_t)t->ticks, "count", (json_int_t)t->completed);

	if (t->signal) {
		char name[32];
		const char *abbreviation = sigabbrev_np(t->signal);

		snprintf(name, sizeof(name), "SIG%s", abbreviation ? abbreviation : "?");
		json_object_set_new(result, "signal", json_string(name));
		json_object_set_new(result, "signal_code", json_integer(t->signal_code));
		json_object_set_new(result, "signal_addr", json_integer((json_int_t)t->signal_addr));
	}
	if (*t->exit)
		json_object_set_new(result, "exit", json_string(t->exit));
	free(t->pages);
	t->pages = NULL;
	return kst_ok(result);
}

static json_t *describe_pending(const struct kst_ticket *t, bool is_blocked, const char *wchan)
{
	json_t *result = json_pack("{s:s, s:I}", "state", is_blocked ? "blocked" : "running", "count",
				   (json_int_t)completed(t));

	if (is_blocked && *wchan && strcmp(wchan, "0"))
		json_object_set_new(result, "wchan", json_string(wchan));
	return kst_ok(result);
}

/* Waits for the state itself: `done` is a futex; being blocked has to be looked for, ever less often. */
static json_t *await(struct kst_ticket *t, enum want want, uint64_t deadline)
{
	uint64_t pause = LOOK_FIRST_US, enough = completed(t) + PROGRESS, now;
	bool looks = want == EITHER || want == BLOCKED;
	char wchan[64] = "";

	if (looks)
		sched_yield(); /* to the actor, if it has only now been given the access and shares our CPU */
	for (;;) {
		bool is_blocked = looks && blocked(t->actor, wchan, sizeof(wchan));

		if (atomic_load(&t->done))
			return describe_done(t);
		if (want == RUNNING && completed(t) >= enough)
			return describe_pending(t, false, wchan);
		if (is_blocked)
			return describe_pending(t, true, wchan);
		now = now_us();
		if (now >= deadline) {
			is_blocked = blocked(t->actor, wchan, sizeof(wchan)) || asleep(t->actor);
			return describe_pending(t, is_blocked && !atomic_load(&t->done), wchan);
		}
		if (want == DONE)
			pause = deadline - now;
		kst_futex_wait(&t->done, 0, pause < deadline - now ? pause : deadline - now);
		pause = pause * 2 < LOOK_MAX_US ? pause * 2 : LOOK_MAX_US;
	}
}

/* The ticket itself, or the latest one of an actor, or of all. */
static struct kst_ticket *ticket_arg(struct kst_subject *s, const json_t *args, json_t **reply)
{
	const struct kst_actor *a;

	if (!json_object_get(args, "actor"))
		return kst_table_arg_or_last(&s->tickets, args, "ticket", reply);
	a = kst_table_arg(&s->actors, args, "actor", reply);
	if (a && !a->ticket)
		*reply = kst_error("argument actor: it was given nothing to do yet");
	return a ? a->ticket : NULL;
}

static json_t *op_ticket(struct kst_subject *s, const json_t *args)
{
	static const char *const names[WANTS] = {"either", "done", "blocked", "running"};
	const char *want;
	uint64_t timeout_ms, i = 0;
	json_t *reply = NULL;
	struct kst_ticket *t = ticket_arg(s, args, &reply);

	if (!t || !kst_arg_range_or(args, "timeout_ms", 2000, 0, WAIT_MAX_MS, &timeout_ms, &reply) ||
	    !kst_arg_str_or(args, "want", "either", &want, &reply))
		return reply;
	while (i < WANTS && strcmp(names[i], want))
		i++;
	if (i == WANTS)
		return kst_error("argument want: %s is none of done, blocked, either, running", want);
	if (atomic_load(&t->done))
		return describe_done(t);
	return await(t, (enum want)i, now_us() + timeout_ms * 1000);
}

const struct kst_op kst_ticket_ops[] = {{"ticket", op_ticket}, {NULL, NULL}};
