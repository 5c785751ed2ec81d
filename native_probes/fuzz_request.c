/* SPDX-License-Identifier: MIT */
/*
 * fuzz_request.c - libFuzzer target: any request line, to the agent or to a
 * subject, is answered by exactly one well-formed line, and nothing leaks.
 *
 * The world outside is played here (see fuzz_world.h); what it answers depends
 * on the input alone. The native loops, caps and the kernel log are left out:
 * they take no more than a few integers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "vcpu.h"

const struct kst_op kst_latency_ops[] = {{NULL, NULL}};
const struct kst_op kst_path_ops[] = {{NULL, NULL}};
const struct kst_op kst_waterfall_ops[] = {{NULL, NULL}};
const struct kst_op kst_throughput_ops[] = {{NULL, NULL}};
const struct kst_op kst_node_ops[] = {{NULL, NULL}};
const struct kst_op kst_evict_ops[] = {{NULL, NULL}};
const struct kst_op kst_access_ops[] = {{NULL, NULL}};
const struct kst_op kst_race_ops[] = {{NULL, NULL}};
const struct kst_op kst_knob_ops[] = {{NULL, NULL}};
const struct kst_op kst_hint_ops[] = {{NULL, NULL}};
const struct kst_op kst_held_ops[] = {{NULL, NULL}};
const struct kst_op kst_pin_ops[] = {{NULL, NULL}};
const struct kst_op kst_signal_ops[] = {{NULL, NULL}};
const struct kst_op kst_vcpu_ops[] = {{NULL, NULL}};
json_t *kst_kernel_log(void);

struct kst_vcpu *kst_vcpu_new(const struct kst_subject *s, const struct kst_region *region, json_t **reply)
{
	(void)s, (void)region;
	*reply = kst_errno(ENOENT, "/dev/kvm");
	return NULL;
}

json_t *kst_vcpu_keep(void)
{
	return kst_ok(NULL);
}

void kst_vcpu_free(struct kst_vcpu *vcpu)
{
	(void)vcpu;
}

void kst_vcpu_serve(struct kst_vcpu *vcpu, struct kst_ticket *ticket)
{
	(void)vcpu, (void)ticket;
}

uint64_t *kst_vcpu_counter(struct kst_vcpu *vcpu)
{
	return (uint64_t *)(void *)vcpu;
}

json_t *kst_caps(void)
{
	return json_object();
}

json_t *kst_kernel_log(void)
{
	return kst_ok(NULL);
}

/* Stands in for pattern.c: no address of a request is touched. */
uint64_t kst_load(uint64_t addr)
{
	return addr;
}

void kst_store(uint64_t addr, uint64_t value)
{
	(void)addr, (void)value;
}

void kst_stamp_page(uint64_t addr, uint64_t page_size, uint64_t seed, uint64_t page)
{
	(void)addr, (void)page_size, (void)seed, (void)page;
}

bool kst_verify_page(uint64_t addr, uint64_t page_size, uint64_t seed, uint64_t page)
{
	(void)addr, (void)page_size;
	return (seed ^ page) & 1;
}

uint64_t kst_sum_page(uint64_t addr, uint64_t page_size)
{
	return addr ^ page_size;
}

static uint32_t state;

static uint32_t next(void)
{
	state = state * 1664525u + 1013904223u;
	return state >> 8;
}

/* Mostly success, so that requests get far; sometimes an errno. */
static int outcome(int success)
{
	if (next() % 4)
		return success;
	errno = next() % 2 ? EINVAL : ENOMEM;
	return -1;
}

#define FD 100

#define PLAIN(name, success)                   \
	int fuzz_##name(long first, ...);      \
	int fuzz_##name(long first, ...)       \
	{                                      \
		(void)first;                   \
		return outcome(success);       \
	}

PLAIN(close, 0)
PLAIN(fallocate, 0)
PLAIN(fcntl, FD)
PLAIN(fork, -1)
PLAIN(fstatfs, 0)
PLAIN(ftruncate, 0)
PLAIN(madvise, 0)
PLAIN(memfd_create, FD)
PLAIN(mprotect, 0)
PLAIN(munmap, 0)
PLAIN(open, FD)
PLAIN(poll, 1)
PLAIN(sched_setaffinity, 0)
PLAIN(sigaction, 0)
PLAIN(pthread_join, 0)

int fuzz_ioctl(int fd, unsigned long request, struct pm_scan_arg *scan);
int fuzz_ioctl(int fd, unsigned long request, struct pm_scan_arg *scan)
{
	(void)fd;
	if (request == PAGEMAP_SCAN)
		return outcome(scan->vec_len < 3 ? (int)scan->vec_len : 3);
	return outcome(0);
}

void *fuzz_mmap(void *addr, size_t len, ...);
void *fuzz_mmap(void *addr, size_t len, ...)
{
	(void)len;
	if (outcome(0))
		return MAP_FAILED;
	return addr ? addr : (void *)(uintptr_t)(0x100000000000u + (uint64_t)(next() % 4096) * (8u << 20));
}

void *fuzz_mremap(void *addr, ...);
void *fuzz_mremap(void *addr, ...)
{
	return outcome(0) ? MAP_FAILED : addr;
}

/* Of a userfaultfd, of /proc/self/mem or of a file in /proc: anything, or its end. */
ssize_t fuzz_read(int fd, void *buffer, size_t len);
ssize_t fuzz_read(int fd, void *buffer, size_t len)
{
	size_t some = len < 64 ? len : 64;

	(void)fd;
	if (outcome(0)) {
		errno = EAGAIN;
		return -1;
	}
	for (size_t i = 0; i < some; i++)
		((unsigned char *)buffer)[i] = (unsigned char)(next() % 24);
	return next() % 2 ? (ssize_t)some : 0;
}

ssize_t fuzz_pread(int fd, void *buffer, size_t len, long offset);
ssize_t fuzz_pread(int fd, void *buffer, size_t len, long offset)
{
	(void)offset;
	return fuzz_read(fd, buffer, len);
}

ssize_t fuzz_write(int fd, const void *buffer, size_t len);
ssize_t fuzz_write(int fd, const void *buffer, size_t len)
{
	(void)fd, (void)buffer;
	return (ssize_t)len; /* events.c takes nothing else from its own eventfd */
}

ssize_t fuzz_pwrite(int fd, const void *buffer, size_t len, long offset);
ssize_t fuzz_pwrite(int fd, const void *buffer, size_t len, long offset)
{
	(void)offset;
	return fuzz_write(fd, buffer, len);
}

ssize_t fuzz_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t fuzz_sendmsg(int fd, const struct msghdr *message, int flags)
{
	(void)fd, (void)flags;
	return (ssize_t)message->msg_iov[0].iov_len;
}

int fuzz_socketpair(int domain, int type, int protocol, int pair[2]);
int fuzz_socketpair(int domain, int type, int protocol, int pair[2])
{
	(void)domain, (void)type, (void)protocol;
	pair[0] = pair[1] = FD;
	return outcome(0);
}

/* userfaultfd gives a descriptor, clone the pid of a child that is not there; futex returns at once. */
long fuzz_syscall(long number, ...);
long fuzz_syscall(long number, ...)
{
	(void)number;
	return outcome(FD);
}

/* A thread is said to run and never does: its tickets stay open. */
int fuzz_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*entry)(void *), void *arg);
int fuzz_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*entry)(void *), void *arg)
{
	(void)thread, (void)entry;
	if (!attr)
		return 0; /* the reader of events */
	if (outcome(0))
		return EAGAIN;
	atomic_store(&((struct kst_actor *)arg)->started, 1);
	return 0;
}

/* Time runs by ten minutes a look, so that no wait lasts. */
int fuzz_clock_gettime(clockid_t id, struct timespec *now);
int fuzz_clock_gettime(clockid_t id, struct timespec *now)
{
	static time_t seconds;

	(void)id;
	*now = (struct timespec){seconds += 600, 0};
	return 0;
}

int fuzz_sem_wait(void *semaphore);
int fuzz_sem_wait(void *semaphore)
{
	(void)semaphore;
	return 0;
}

static void check_reply(char *reply)
{
	json_t *parsed = reply ? json_loads(reply, 0, NULL) : NULL;

	if (!json_is_object(parsed) || !json_object_get(parsed, "id") || strchr(reply, '\n') ||
	    strlen(reply) > KST_REPLY_MAX)
		abort();
	json_decref(parsed);
	free(reply);
}

/* Several lines make one session, so that handles made by one are used by the next. */
static void each_line(const char *data, size_t size, void (*one)(void *to, const char *line, size_t len), void *to)
{
	const char *end = data + size;

	while (data < end) {
		const char *newline = memchr(data, '\n', (size_t)(end - data));
		size_t len = newline ? (size_t)(newline - data) : (size_t)(end - data);

		one(to, data, len);
		data += len + 1;
	}
}

static void to_agent(void *agent, const char *line, size_t len)
{
	check_reply(kst_agent_handle(agent, line, len));
}

static void to_subject(void *subject, const char *line, size_t len)
{
	check_reply(kst_subject_handle(subject, line, len));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kst_agent *agent = kst_agent_new();
	struct kst_subject *subject = kst_subject_new(FD, 1);

	subject->next_subject = 2;
	state = (uint32_t)size;
	each_line((const char *)data, size, to_subject, subject);
	each_line((const char *)data, size, to_agent, agent);
	kst_subject_free(subject);
	kst_agent_free(agent);
	return 0;
}
