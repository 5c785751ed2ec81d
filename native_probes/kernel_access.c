/* SPDX-License-Identifier: MIT */
/*
 * kernel_access.c - an access that the kernel makes on behalf of somebody, to a protected page: is it seen, does it
 * wait until the page is resolved, are the bytes right.
 *
 * The page is the middle one of three. Where a message comes, its thread (named by THREAD_ID) is first seen to sleep
 * in the fault; then the page is resolved with DONTWAKE and, before the thread is woken, changed in one byte if the
 * access reads: the accessor must see the change. If the access writes, nothing of it may be in the page by then.
 */
#define _GNU_SOURCE
#include "access.h"
#include "uapi.h"
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define LATE 4094 /* the byte that is changed while a reader waits: the last one of the text in the page */

struct trial {
	const struct kst_accessor *accessor;
	struct kst_access *a;
	struct kst_mem mem;
	struct kst_track track;
	int pagemap, ended; /* eventfd: the access has ended */
	pthread_t thread;
	bool started, finished, corrupt, lose_wake, inaccessible, abandon;
	uint64_t deadline;
	int error; /* of the access */
	char expected[KST_ACCESS_SIZE];
	/* What was seen. */
	uint64_t messages, flags;
	bool armed, early, waited;
};

static const struct kst_accessor *find(const char *name)
{
	static const struct kst_accessor *const tables[] = { kst_copy_accessors, kst_io_accessors, kst_process_accessors };

	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		for (const struct kst_accessor *one = tables[i]; one->name; one++)
			if (!strcmp(one->name, name))
				return one;
	return NULL;
}

/* Text without a zero byte but the last, so that the page is one string as well. */
static void text(char *bytes, char first)
{
	for (unsigned int i = 0; i < KST_ACCESS_SIZE; i++)
		bytes[i] = (char)(first + (i * 7 + i / 64) % 26);
	bytes[KST_ACCESS_SIZE - 1] = 0;
}

static void *run(void *arg)
{
	struct trial *t = arg;

	t->error = t->accessor->run(t->a);
	eventfd_write(t->ended, 1);
	return NULL;
}

/* Waits until the thread sleeps in its fault: with it, what it does next depends on being woken. */
static bool falls_asleep(pid_t tid, uint64_t deadline)
{
	const struct timespec pause = { 0, 50000 };
	char path[40], where[64];

	snprintf(path, sizeof(path), "/proc/%d/wchan", (int)tid);
	do {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : read(fd, where, sizeof(where) - 1);

		close(fd);
		where[n > 0 ? n : 0] = 0;
		if (!strcmp(where, "handle_userfault"))
			return true;
		nanosleep(&pause, NULL);
	} while (kst_now_ns() < deadline);
	return false;
}

static int resolve(struct trial *t, bool wake)
{
	struct uffdio_range range = { .start = (uintptr_t)t->a->page, .len = KST_ACCESS_SIZE };
	struct uffdio_rwprotect rwp = { .range = range, .mode = UFFDIO_RWPROTECT_MODE_DONTWAKE };
	struct uffdio_writeprotect wp = { .range = range, .mode = UFFDIO_WRITEPROTECT_MODE_DONTWAKE };

	if (t->track.rwp ? ioctl(t->track.uffd, UFFDIO_RWPROTECT, &rwp) : ioctl(t->track.uffd, UFFDIO_WRITEPROTECT, &wp))
		return errno;
	if (t->corrupt)
		t->a->page[LATE - 1] ^= 1;
	return wake && ioctl(t->track.uffd, UFFDIO_WAKE, &range) ? errno : 0;
}

static int answer(struct trial *t, const struct uffd_msg *msg)
{
	struct uffdio_range range = { .start = (uintptr_t)t->a->page, .len = KST_ACCESS_SIZE };
	int err;

	t->messages++;
	t->flags |= msg->arg.pagefault.flags;
	if (msg->event != UFFD_EVENT_PAGEFAULT || msg->arg.pagefault.address != range.start)
		return EPROTO;
	if (t->messages == 1)
		t->waited = falls_asleep((pid_t)msg->arg.pagefault.feat.ptid, t->deadline);
	if (t->abandon)
		return 0;
	err = resolve(t, false);
	if (err)
		return err;
	t->early |= memcmp(t->a->page, t->expected, LATE - 1) != 0;
	if (!t->accessor->writes && t->waited)
		t->a->page[LATE] = t->expected[LATE] = '!';
	return !t->lose_wake && ioctl(t->track.uffd, UFFDIO_WAKE, &range) ? errno : 0;
}

/* Until the access has ended, or time is up, or its thread sleeps and is meant to stay there. */
static int serve(struct trial *t)
{
	struct pollfd fds[] = { { .fd = t->track.uffd, .events = POLLIN }, { .fd = t->ended, .events = POLLIN } };
	struct uffd_msg msg;
	int err = 0;

	while (!err && !t->finished && kst_now_ns() < t->deadline && !(t->abandon && t->messages)) {
		if (poll(fds, 2, 100) < 0 && errno != EINTR)
			return errno;
		/* the message first: the end of an access may be there with it */
		if (fds[0].revents && read(t->track.uffd, &msg, sizeof(msg)) == sizeof(msg))
			err = answer(t, &msg);
		else
			t->finished = fds[1].revents & POLLIN;
	}
	return err;
}

static bool marked(const struct trial *t, unsigned int page)
{
	uint64_t entry = 0, at = (uintptr_t)t->mem.addr / KST_ACCESS_SIZE + page;

	return pread(t->pagemap, &entry, sizeof(entry), (off_t)(at * sizeof(entry))) == sizeof(entry) && entry >> 57 & 1;
}

static json_t *prepare(struct trial *t, const char *kind, bool rwp, bool async)
{
	json_t *reply = kst_mem_map(&t->mem, kind, 3);
	int err;

	if (reply)
		return reply;
	t->a = mmap(NULL, sizeof(*t->a), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (t->a == MAP_FAILED)
		return kst_errno(errno, "mmap");
	t->a->fd[0] = t->a->fd[1] = t->a->ring = t->a->device = -1;
	t->a->page = t->mem.addr + KST_ACCESS_SIZE;
	text(t->a->page, 'A');
	text(t->a->fill, 'a');
	/* a child has its own copy of nothing here: only accesses through this process are under test */
	madvise(t->mem.addr, t->mem.len, MADV_DONTFORK);
	err = t->accessor->prepare ? t->accessor->prepare(t->a) : 0;
	if (err)
		return kst_errno(EOPNOTSUPP, strerrorname_np(err));
	memcpy(t->expected, t->a->page, KST_ACCESS_SIZE);
	reply = kst_track_open(&t->track, rwp, async, UFFD_FEATURE_THREAD_ID);
	if (reply)
		return reply;
	t->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	t->ended = eventfd(0, EFD_CLOEXEC);
	if (t->pagemap < 0 || t->ended < 0)
		return kst_errno(errno, "pagemap or eventfd");
	err = kst_track_register(&t->track, &t->mem, 0);
	if (!err)
		err = kst_track_protect(&t->track, t->mem.addr, t->mem.len, true);
	if (!err && t->inaccessible && mprotect(t->mem.addr, t->mem.len, PROT_NONE))
		err = errno;
	t->armed = marked(t, 0) && marked(t, 1) && marked(t, 2);
	return err ? kst_errno(err, "protecting the page") : NULL;
}

/* Is page 1 in what the scan reports as touched? */
static int scan(const struct trial *t, bool *reported)
{
	struct page_region found[3];
	size_t n = 0;
	int err = kst_track_scan(&t->track, &t->mem, t->pagemap, found, &n);

	for (size_t i = 0; i < n; i++)
		*reported |= found[i].start <= (uintptr_t)t->a->page && found[i].end > (uintptr_t)t->a->page;
	return err;
}

static json_t *describe(struct trial *t)
{
	bool kept = marked(t, 0) && marked(t, 2), left = marked(t, 1), reported = false, data, read;
	int err = scan(t, &reported);

	if (t->inaccessible && mprotect(t->mem.addr, t->mem.len, PROT_READ | PROT_WRITE))
		err = errno;
	if (!err)
		err = resolve(t, true);
	if (err)
		return kst_errno(err, "looking at the page");
	memcpy(t->expected, t->a->fill, t->error ? 0 : t->accessor->writes);
	data = !memcmp(t->a->page, t->expected, KST_ACCESS_SIZE);
	read = t->error || !memcmp(t->a->got, t->expected, t->accessor->reads);
	return kst_ok(json_pack("{s:b, s:I, s:I, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:s}", "armed", t->armed, "messages",
				(json_int_t)t->messages, "flags", (json_int_t)t->flags, "waited", t->waited, "early", t->early,
				"finished", t->finished, "marked", left, "reported", reported, "neighbours", kept, "page", data,
				"got", read, "error", t->error ? strerrorname_np(t->error) : ""));
}

static void put_away(struct kst_access *a)
{
	const int fds[] = { a->fd[0], a->fd[1], a->ring };
	FILE *control;

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (a->second && a->second != MAP_FAILED)
		munmap(a->second, KST_ACCESS_SIZE);
	if (*a->directory)
		rmdir(a->directory);
	control = a->device < 0 ? NULL : fopen("/sys/class/zram-control/hot_remove", "w");
	if (control) {
		fprintf(control, "%d", a->device);
		fclose(control);
	}
	munmap(a, sizeof(*a));
}

static void teardown(struct trial *t)
{
	const int fds[] = { t->track.uffd, t->pagemap, t->ended };

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (t->a && t->a != MAP_FAILED)
		put_away(t->a);
	kst_mem_unmap(&t->mem);
	free(t);
}

static json_t *parse(struct trial *t, const struct kst_subject *s, const json_t *args, const char **kind, bool *rwp,
		     bool *async)
{
	const char *name;
	uint64_t timeout_ms;
	json_t *reply = NULL;

	t->track = (struct kst_track){ .uffd = -1, .lie = kst_control(s, "skip_protect") };
	t->corrupt = kst_control(s, "corrupt");
	t->lose_wake = kst_control(s, "lose_wake");
	if (!kst_arg_str(args, "accessor", &name, &reply) || !kst_arg_str(args, "kind", kind, &reply) ||
	    !kst_arg_either(args, "mode", "wp", "rwp", rwp, &reply) || !kst_arg_bool_or(args, "async", false, async, &reply) ||
	    !kst_arg_bool_or(args, "inaccessible", false, &t->inaccessible, &reply) ||
	    !kst_arg_bool_or(args, "abandon", false, &t->abandon, &reply) ||
	    !kst_arg_range_or(args, "timeout_ms", 10000, 100, 60000, &timeout_ms, &reply))
		return reply;
	if (strcmp(*kind, "anon") && strcmp(*kind, "shmem"))
		return kst_error("kind: must be anon or shmem");
	t->accessor = find(name);
	t->deadline = kst_now_ns() + timeout_ms * 1000000;
	return t->accessor ? NULL : kst_error("accessor: none is called %s", name);
}

static json_t *op_kernel_access(struct kst_subject *s, const json_t *args)
{
	struct trial *t = calloc(1, sizeof(*t));
	const char *kind;
	bool rwp, async;
	json_t *reply;
	int err;

	if (!t)
		abort();
	t->pagemap = t->ended = -1;
	reply = parse(t, s, args, &kind, &rwp, &async);
	if (!reply)
		reply = prepare(t, kind, rwp, async);
	if (!reply) {
		err = pthread_create(&t->thread, NULL, run, t);
		t->started = !err;
		if (!err)
			err = serve(t);
		reply = err ? kst_errno(err, "serving the access") : describe(t);
	}
	if (t->started && !t->finished) /* its thread still uses all this; the subject that holds it is not meant to last */
		return reply;
	if (t->started)
		pthread_join(t->thread, NULL);
	teardown(t);
	return reply;
}

const struct kst_op kst_access_ops[] = { { "kernel_access", op_kernel_access }, { NULL, NULL } };
