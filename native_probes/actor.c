/* SPDX-License-Identifier: MIT */
/* actor.c - threads that access memory when told to, and may sleep or be hit by a signal in doing so. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "vcpu.h"

#define SIGNAL_STACK (64u << 10)
#define THREAD_STACK (256u << 10)
#define COUNT_MAX (1ull << 32)
#define PAGES_MAX 100000
#define PAGE 4096

void kst_futex_wait(atomic_uint *word, unsigned int value, uint64_t usec)
{
	struct timespec bound = {(time_t)(usec / 1000000), (long)(usec % 1000000) * 1000};

	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, usec == UINT64_MAX ? NULL : &bound, NULL, 0);
}

void kst_futex_wake(atomic_uint *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static inline uint64_t ticks(void)
{
#if defined(__x86_64__)
	uint64_t now;

	_mm_lfence();
	now = __rdtsc();
	_mm_lfence();
	return now;
#else
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

typedef uint64_t __attribute__((aligned(1), may_alias)) any_u64;

/* A fork by this thread, which sleeps in it until the events that it raises are read; the child exits at once. */
static uint64_t fork_and_wait(void)
{
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (pid == 0)
		_exit(0);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return pid > 0;
}

static void *page_of(uint64_t addr)
{
	return (void *)(uintptr_t)(addr & ~(uint64_t)(PAGE - 1));
}

/* One access. Sanitizers must not look: `addr` may be anything. */
__attribute__((noinline, no_sanitize("address", "undefined"))) static uint64_t perform(enum kst_how how, uint64_t addr,
									      uint64_t value)
{
	volatile any_u64 *word = (volatile any_u64 *)(uintptr_t)addr;

	switch (how) {
	case KST_READ:
		return *word;
	case KST_WRITE:
		*word = value;
		return value;
	case KST_RMW:
		return __atomic_fetch_add((volatile uint64_t *)(uintptr_t)addr, value, __ATOMIC_SEQ_CST);
	case KST_EXEC:
		((void (*)(void))(uintptr_t)addr)();
		return 0;
	case KST_FORK:
		return fork_and_wait();
	/* The page of `addr` is brought in by a system call, whose errno is the result. */
	case KST_POPULATE_READ:
		return madvise(page_of(addr), PAGE, MADV_POPULATE_READ) ? (uint64_t)errno : 0;
	case KST_POPULATE_WRITE:
		return madvise(page_of(addr), PAGE, MADV_POPULATE_WRITE) ? (uint64_t)errno : 0;
	case KST_MLOCK:
		return syscall(SYS_mlock, page_of(addr), PAGE) ? /* a sanitizer makes a no-op of mlock() */ (uint64_t)errno : 0;
	case KST_HWPOISON: /* the kernel tells the thread by SIGBUS */
		return madvise(page_of(addr), PAGE, MADV_HWPOISON) ? (uint64_t)errno : 0;
	case KST_GUARD:
		return madvise(page_of(addr), PAGE, MADV_GUARD_INSTALL) ? (uint64_t)errno : 0;
	}
	return 0;
}

/* Where a signal raised by this thread's own access goes; NULL when it makes none. */
static __thread sigjmp_buf *escape;
static __thread siginfo_t caught;

static void on_signal(int number, siginfo_t *info, void *context)
{
	(void)context;
	if (escape) {
		caught = *info;
		siglongjmp(*escape, 1);
	}
	/* Not an actor's access: die of it, as without a handler. */
	signal(number, SIG_DFL);
}

/* False when the access raised a signal, which is in `caught`. */
static bool survive(enum kst_how how, uint64_t addr, uint64_t value, uint64_t *result)
{
	sigjmp_buf here;

	if (sigsetjmp(here, 0)) {
		escape = NULL;
		return false;
	}
	escape = &here;
	*result = perform(how, addr, value);
	escape = NULL;
	return true;
}

static void serve(struct kst_ticket *t)
{
	uint64_t ignored;

	if (t->actor->vcpu) {
		kst_vcpu_serve(t->actor->vcpu, t);
		return;
	}
	for (uint64_t i = 0; i < t->count; i++) {
		uint64_t addr = t->addr + (t->pages ? t->pages[i] : i) * t->stride;
		uint64_t start = ticks();

		if (!survive(t->how, addr, t->value, &t->result)) {
			t->signal = caught.si_signo;
			t->signal_code = caught.si_code;
			t->signal_addr = (uint64_t)(uintptr_t)caught.si_addr;
			break;
		}
		t->ticks += ticks() - start;
		__atomic_store_n(&t->completed, i + 1, __ATOMIC_RELAXED);
		if (t->neighbour)
			survive(KST_READ, addr + t->neighbour, 0, &ignored);
	}
}

/* No malloc in here: a fork of the subject meanwhile would copy the lock of the heap in its locked state. */
static void *actor_main(void *arg)
{
	struct kst_actor *a = arg;
	const stack_t stack = {.ss_sp = a->stack, .ss_size = SIGNAL_STACK};

	sigaltstack(&stack, NULL);
	a->tid = (pid_t)syscall(SYS_gettid);
	atomic_store(&a->started, 1);
	kst_futex_wake(&a->started);
	for (unsigned int served = 0;; served++) {
		while (atomic_load(&a->asked) == served)
			kst_futex_wait(&a->asked, served, UINT64_MAX);
		serve(a->ticket);
		atomic_store(&a->ticket->done, 1);
		kst_futex_wake(&a->ticket->done);
	}
	return NULL;
}

static void catch_signals(void)
{
	static const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaction(numbers[i], &action, NULL);
}

static int start(struct kst_actor *a)
{
	sigset_t ended, before;
	pthread_attr_t attr;
	int err;

	catch_signals();
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	/* The end of the agent is the main thread's to notice: an actor must not be woken out of a fault by it. */
	sigemptyset(&ended);
	sigaddset(&ended, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &ended, &before);
	err = pthread_create(&a->thread, &attr, actor_main, a);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (err)
		return err;
	while (!atomic_load(&a->started))
		kst_futex_wait(&a->started, 0, UINT64_MAX);
	return 0;
}

static json_t *op_actor(struct kst_subject *s, const json_t *args)
{
	const struct kst_region *region = NULL;
	struct kst_vcpu *vcpu = NULL;
	json_t *reply = NULL;
	struct kst_actor *a;
	int err;

	if (json_object_get(args, "vcpu")) {
		region = kst_table_arg(&s->regions, args, "vcpu", &reply);
		vcpu = region ? kst_vcpu_new(s, region, &reply) : NULL;
		if (!vcpu)
			return reply;
	}
	a = calloc(1, sizeof(*a));
	if (!a)
		abort();
	a->vcpu = vcpu;
	a->stat_fd = a->wchan_fd = a->syscall_fd = -1;
	a->stack = malloc(SIGNAL_STACK);
	err = a->stack ? start(a) : ENOMEM;
	if (err) {
		kst_vcpu_free(vcpu);
		free(a->stack);
		free(a);
		return kst_errno(err, "pthread_create");
	}
	return kst_ok(json_pack("{s:I, s:i}", "actor", (json_int_t)kst_table_add(&s->actors, a), "tid", (int)a->tid));
}

void kst_actor_free(struct kst_actor *a)
{
	const int files[] = {a->stat_fd, a->wchan_fd, a->syscall_fd};

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		if (files[i] >= 0)
			close(files[i]);
	kst_vcpu_free(a->vcpu);
	free(a->stack);
	free(a);
}

void kst_ticket_free(struct kst_ticket *ticket)
{
	free(ticket->pages);
	free(ticket);
}

static bool how_arg(const json_t *args, enum kst_how *how, json_t **reply)
{
	static const char *const names[] = {
		"read", "write", "rmw", "exec", "fork", "populate_read", "populate_write", "mlock", "hwpoison",
		"guard_install",
	};
	const char *name;

	if (!kst_arg_str(args, "how", &name, reply))
		return false;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(names[i], name)) {
			*how = (enum kst_how)i;
			return true;
		}
	}
	*reply = kst_error("argument how: %s is no way to access memory", name);
	return false;
}

static bool pages_arg(const json_t *list, uint32_t **pages, json_t **reply)
{
	size_t count = json_array_size(list);

	if (!json_is_array(list) || !count || count > PAGES_MAX) {
		*reply = kst_error("argument pages: not a list of 1..%d page numbers", PAGES_MAX);
		return false;
	}
	*pages = calloc(count, sizeof(**pages));
	if (!*pages)
		abort();
	for (size_t i = 0; i < count; i++) {
		const json_t *page = json_array_get(list, i);
		json_int_t number = json_is_integer(page) ? json_integer_value(page) : -1;

		if (number < 0 || number > UINT32_MAX) {
			*reply = kst_error("argument pages: entry %zu is not a page number", i);
			free(*pages);
			return false;
		}
		(*pages)[i] = (uint32_t)number;
	}
	return true;
}

static json_t *give(struct kst_subject *s, struct kst_ticket *ticket)
{
	struct kst_actor *a = ticket->actor;
	size_t handle = kst_table_add(&s->tickets, ticket);

	if (kst_control(s, "touch_neighbour"))
		ticket->neighbour = kst_page_size_at(s, ticket->addr);
	ticket->counter = a->vcpu ? kst_vcpu_counter(a->vcpu) : &ticket->completed;
	*ticket->counter = 0;
	a->ticket = ticket;
	a->asleep_in_fault = 0;
	atomic_fetch_add(&a->asked, 1);
	kst_futex_wake(&a->asked);
	return kst_ok(json_pack("{s:I}", "ticket", (json_int_t)handle));
}

static json_t *op_access(struct kst_subject *s, const json_t *args, bool many)
{
	struct kst_ticket *ticket, t = {.count = 1};
	const json_t *pages = many ? json_object_get(args, "pages") : NULL;
	json_t *reply = NULL;

	t.actor = kst_table_arg_or_last(&s->actors, args, "actor", &reply);
	if (!t.actor || !how_arg(args, &t.how, &reply) || !kst_arg_u64(args, "addr", &t.addr, &reply) ||
	    !kst_arg_word_or(args, "value", 1, &t.value, &reply))
		return reply;
	if (t.actor->ticket && !atomic_load(&t.actor->ticket->done))
		return kst_error("the actor is still busy with its last ticket");
	if (t.actor->vcpu && t.how >= KST_FORK)
		return kst_error("argument how: a vCPU makes no system calls");
	if (many && (!kst_arg_range_or(args, "stride", 4096, 0, 1ull << 40, &t.stride, &reply) ||
		     !(pages ? pages_arg(pages, &t.pages, &reply) :
			       kst_arg_range(args, "count", 0, COUNT_MAX, &t.count, &reply))))
		return reply;
	if (t.pages)
		t.count = json_array_size(pages);
	ticket = malloc(sizeof(*ticket));
	if (!ticket)
		abort();
	memcpy(ticket, &t, sizeof(t));
	return give(s, ticket);
}

static json_t *op_access_one(struct kst_subject *s, const json_t *args)
{
	return op_access(s, args, false);
}

static json_t *op_touch(struct kst_subject *s, const json_t *args)
{
	return op_access(s, args, true);
}

const struct kst_op kst_actor_ops[] = {
	{"actor", op_actor}, {"access", op_access_one}, {"touch", op_touch}, {NULL, NULL}};
