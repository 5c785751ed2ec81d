/* SPDX-License-Identifier: MIT */
/* actor.h - threads that access memory, and the tickets of their accesses. */
#ifndef KST_ACTOR_H
#define KST_ACTOR_H

#include <pthread.h>
#include <stdatomic.h>

#include "subject.h"

enum kst_how { KST_READ, KST_WRITE, KST_RMW, KST_EXEC, KST_FORK, KST_POPULATE_READ, KST_POPULATE_WRITE, KST_MLOCK, KST_HWPOISON, KST_GUARD };

/* Some accesses, all of one kind, made in order by one actor. */
struct kst_ticket {
	struct kst_actor *actor;
	enum kst_how how;
	uint64_t addr, stride, count;
	uint64_t value;     /* in: what to write or add */
	uint32_t *pages;    /* page numbers (in units of stride); NULL: 0 .. count - 1 */
	uint64_t neighbour; /* control touch_neighbour: also read this far on; 0: not */
	/* Out; to be read once `done` is seen. */
	uint64_t result;    /* value of the last access: read, or before the rmw */
	uint64_t ticks;     /* time stamp counter, summed over the accesses */
	uint64_t completed;
	uint64_t *counter;  /* of accesses completed so far, while they go on: `completed`, or the vCPU's own */
	char exit[32];      /* why the vCPU left the guest, if not because it was done; empty: it did not */
	int signal;         /* that ended it; 0: none */
	int signal_code;
	uint64_t signal_addr;
	atomic_uint done;   /* futex */
};

struct kst_actor {
	pthread_t thread;
	pid_t tid;
	struct kst_vcpu *vcpu;     /* who makes its accesses; NULL: the thread itself */
	struct kst_ticket *ticket; /* the latest; written before `asked` is raised */
	atomic_uint asked;         /* futex: counts the tickets given */
	atomic_uint started;       /* futex: tid is known */
	int stat_fd, wchan_fd, syscall_fd; /* in /proc/self/task/TID; -1: not yet opened */
	unsigned int asleep_in_fault; /* consecutive sightings where wchan says nothing */
	char *stack;               /* for signals: the usual one may be what faulted */
};

/* Waits until *word != value, at most `usec` microseconds (UINT64_MAX: for ever). */
void kst_futex_wait(atomic_uint *word, unsigned int value, uint64_t usec);
void kst_futex_wake(atomic_uint *word);


#endif
