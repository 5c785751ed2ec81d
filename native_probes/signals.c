/* SPDX-License-Identifier: MIT */
/* signals.c - a signal for one actor, which its thread handles and then goes on, in the middle of an access too. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "actor.h"
#include "workload.h"

#define NUMBER SIGUSR2
#define WAIT_MAX_MS 60000

static atomic_uint handled; /* futex: signals handled by the threads of this process so far */

static void on_signal(int number)
{
	int err = errno;

	(void)number;
	atomic_fetch_add(&handled, 1);
	kst_futex_wake(&handled);
	errno = err;
}

/* Waits until the handler has run; a thread that cannot be interrupted runs it later. */
static json_t *op_interrupt(struct kst_subject *s, const json_t *args)
{
	const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	unsigned int before = atomic_load(&handled);
	uint64_t timeout_ms, now, end;
	json_t *reply = NULL;
	struct kst_actor *a = kst_table_arg_or_last(&s->actors, args, "actor", &reply);

	if (!a || !kst_arg_range_or(args, "timeout_ms", 2000, 0, WAIT_MAX_MS, &timeout_ms, &reply))
		return reply;
	if (sigaction(NUMBER, &action, NULL) || syscall(SYS_tgkill, getpid(), a->tid, NUMBER))
		return kst_errno(errno, "tgkill");
	end = kst_now_ns() + timeout_ms * 1000000;
	while (atomic_load(&handled) == before && (now = kst_now_ns()) < end)
		kst_futex_wait(&handled, before, (end - now) / 1000 + 1);
	a->asleep_in_fault = 0;
	return kst_ok(json_pack("{s:b}", "handled", atomic_load(&handled) != before));
}

const struct kst_op kst_signal_ops[] = {{"interrupt", op_interrupt}, {NULL, NULL}};
