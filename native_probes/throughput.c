/* SPDX-License-Identifier: MIT */
/*
 * throughput.c - how many sync faults a second, by how many threads, with which kind of handler, in which batches.
 *
 * Each thread writes or reads the pages of its own part of the range in order. Whoever resolves a fault resolves the
 * whole batch that the page begins with one ioctl, so that of `batch` accesses one faults: faults * batch is the number
 * of accesses, exactly. Handlers: one thread that waits in poll(2) before it reads, one that waits in read(2) itself
 * (Documentation/admin-guide/mm/userfaultfd.rst: the descriptor may be blocking), or the signal handler of the
 * accessing thread (UFFD_FEATURE_SIGBUS). The latency of an access that faults is recorded; those that follow in its
 * batch are not clocked. One round is run unmeasured.
 */
#define _GNU_SOURCE
#include "loop.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_THREADS 16
#define MAX_BATCH 512

enum handler_kind { HANDLER_POLL, HANDLER_READ, HANDLER_SIGBUS };

struct thread {
	struct crowd *crowd;
	pthread_t id;
	uint64_t first, pages; /* its part of the range */
	uint64_t begin, end;   /* of its round */
	struct kst_hist *hist;
};

struct crowd {
	struct kst_loop loop;
	enum handler_kind kind;
	uint64_t batch;
	unsigned int threads, started;
	struct thread thread[MAX_THREADS];
	pthread_t handler;
	struct sigaction before;
	pthread_mutex_t gate;
	pthread_barrier_t barrier; /* the threads and who starts them: before and after each round */
	struct kst_mem last; /* one more page: a fault there ends the handler: what else would wake it in read(2)? */
	uint64_t elapsed;
	atomic_bool stop;
	atomic_ullong faults;
	atomic_int err;
};

/* Of the threads that a signal handler may run in; it has no argument to find it by. */
static struct crowd *handled;

/* Whoever sleeps in a fault goes on, without protection, when the descriptor is closed; the error is then told. */
static void give_up(struct crowd *c, int err)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&c->err, &none, err))
		close(c->loop.track.uffd);
}

static void resolve(struct crowd *c, uintptr_t address)
{
	const struct kst_mem *mem = &c->loop.mem;
	size_t batch = c->batch * mem->page_size;
	size_t offset = (address - (uintptr_t)mem->addr) / batch * batch;
	int err;

	atomic_fetch_add(&c->faults, 1); /* first: the thread that is woken may end the round */
	err = kst_track_protect(&c->loop.track, mem->addr + offset, batch, false);
	if (err)
		give_up(c, err);
}

static bool within(const struct kst_mem *mem, uintptr_t address)
{
	return address >= (uintptr_t)mem->addr && address < (uintptr_t)mem->addr + mem->len;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	int saved = errno;

	(void)context;
	if (!handled || !within(&handled->loop.mem, (uintptr_t)info->si_addr))
		signal(number, SIG_DFL); /* a fault of another kind: it comes again, and ends the subject */
	else if (!atomic_load(&handled->err)) /* else nothing is protected any more: the access goes on */
		resolve(handled, (uintptr_t)info->si_addr);
	errno = saved;
}

static void *handle_faults(void *arg)
{
	struct crowd *c = arg;
	int uffd = c->loop.track.uffd;
	struct pollfd fd = { .fd = uffd, .events = POLLIN };
	struct uffd_msg msg;

	for (;;) {
		ssize_t got;

		if (c->kind == HANDLER_POLL && poll(&fd, 1, -1) < 0 && errno != EINTR)
			break;
		got = read(uffd, &msg, sizeof(msg));
		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (got != sizeof(msg) || msg.event != UFFD_EVENT_PAGEFAULT)
			break;
		if (within(&c->last, msg.arg.pagefault.address)) {
			struct kst_track honest = c->loop.track;
			int err = kst_track_protect(&honest, c->last.addr, c->last.len, false);

			if (err)
				give_up(c, err);
			return NULL;
		}
		resolve(c, msg.arg.pagefault.address);
		if (c->err)
			return NULL;
	}
	give_up(c, EPROTO);
	return NULL;
}

static void touch(struct thread *t)
{
	const struct kst_loop *l = &t->crowd->loop;
	uint64_t batch = t->crowd->batch;

	for (uint64_t i = t->first; i < t->first + t->pages; i++) {
		bool timed = i % batch == 0;
		uint64_t begin = timed ? kst_ticks(l->tsc) : 0;

		kst_loop_access(l, i);
		if (timed)
			kst_hist_add(t->hist, kst_ticks(l->tsc) - begin);
	}
}

static void *access_pages(void *arg)
{
	struct thread *t = arg;
	struct crowd *c = t->crowd;

	pthread_mutex_lock(&c->gate); /* until the barrier knows how many we are */
	pthread_mutex_unlock(&c->gate);
	for (;;) {
		pthread_barrier_wait(&c->barrier);
		if (c->stop)
			return NULL;
		t->begin = kst_ticks(c->loop.tsc);
		touch(t);
		t->end = kst_ticks(c->loop.tsc);
		pthread_barrier_wait(&c->barrier);
	}
}

/* From the first thread's begin to the last one's end. */
static uint64_t round_ticks(const struct crowd *c)
{
	uint64_t begin = UINT64_MAX, end = 0;

	for (unsigned int i = 0; i < c->threads; i++) {
		begin = c->thread[i].begin < begin ? c->thread[i].begin : begin;
		end = c->thread[i].end > end ? c->thread[i].end : end;
	}
	return end - begin;
}

static int run_rounds(struct crowd *c)
{
	struct kst_loop *l = &c->loop;

	for (uint64_t round = 0; round <= l->rounds; round++) {
		int err = kst_track_protect(&l->track, l->mem.addr, l->mem.len, true);

		if (err)
			return err;
		pthread_barrier_wait(&c->barrier);
		pthread_barrier_wait(&c->barrier);
		if (c->err)
			return c->err;
		c->elapsed += round_ticks(c);
		if (round == 0) { /* the first round only warms up */
			for (unsigned int i = 0; i < c->threads; i++)
				kst_hist_clear(c->thread[i].hist);
			c->elapsed = 0;
			c->faults = 0;
		}
	}
	return 0;
}

/* As many as can be had: 0, or why it is not all. */
static int start_threads(struct crowd *c)
{
	uint64_t pages = c->loop.mem.pages / c->threads;
	int err = 0;

	pthread_mutex_lock(&c->gate);
	while (!err && c->started < c->threads) {
		struct thread *t = &c->thread[c->started];

		*t = (struct thread){ .crowd = c, .first = c->started * pages, .pages = pages, .hist = kst_hist_new() };
		err = t->hist ? pthread_create(&t->id, NULL, access_pages, t) : ENOMEM;
		if (err)
			kst_hist_free(t->hist);
		else
			c->started++;
	}
	pthread_barrier_init(&c->barrier, NULL, c->started + 1); /* private: it can only fail by its count */
	pthread_mutex_unlock(&c->gate);
	return err;
}

static void end_threads(struct crowd *c)
{
	c->stop = true;
	pthread_barrier_wait(&c->barrier);
	for (unsigned int i = 0; i < c->started; i++) {
		pthread_join(c->thread[i].id, NULL);
		kst_hist_merge(c->loop.hist, c->thread[i].hist);
		kst_hist_free(c->thread[i].hist);
	}
	pthread_barrier_destroy(&c->barrier);
}

static int start_handler(struct crowd *c)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
	struct kst_track honest = c->loop.track;
	int err;

	honest.lie = false;
	if (c->kind == HANDLER_SIGBUS) {
		handled = c;
		return sigaction(SIGBUS, &action, &c->before) ? errno : 0;
	}
	if (c->kind == HANDLER_READ && fcntl(honest.uffd, F_SETFL, 0))
		return errno;
	err = kst_track_register(&honest, &c->last, 0);
	if (!err)
		err = kst_track_protect(&honest, c->last.addr, c->last.len, true);
	return err ? err : pthread_create(&c->handler, NULL, handle_faults, c);
}

static void end_handler(struct crowd *c)
{
	if (c->kind == HANDLER_SIGBUS) {
		sigaction(SIGBUS, &c->before, NULL);
		handled = NULL;
		return;
	}
	*(volatile char *)c->last.addr = 1;
	pthread_join(c->handler, NULL);
}

static json_t *run(struct crowd *c)
{
	struct kst_loop *l = &c->loop;
	uint64_t features = c->kind == HANDLER_SIGBUS ? UFFD_FEATURE_SIGBUS : 0;
	json_t *result, *reply = kst_mem_map(&c->last, "anon", 1);
	int err = 0;

	if (!reply)
		reply = kst_track_open(&l->track, l->track.rwp, false, features);
	if (reply)
		return reply;
	err = kst_track_register(&l->track, &l->mem, 0);
	if (!err)
		err = start_handler(c);
	if (err)
		return kst_errno(err, "registering the range, or starting its handler");
	err = start_threads(c);
	if (!err)
		err = run_rounds(c);
	end_threads(c);
	end_handler(c);
	if (c->err) {
		l->track.uffd = -1; /* closed by who gave up */
		return kst_errno(c->err, "resolving a fault");
	}
	if (err)
		return kst_errno(err, "starting the threads, or protecting the range");
	result = kst_loop_reply("histogram", l);
	json_object_set_new(result, "faults", json_integer((json_int_t)c->faults));
	json_object_set_new(result, "accesses", json_integer((json_int_t)(l->mem.pages * l->rounds)));
	json_object_set_new(result, "elapsed", json_integer((json_int_t)c->elapsed));
	return kst_ok(result);
}

static bool find_kind(const json_t *args, enum handler_kind *kind, json_t **reply)
{
	static const char *const names[] = { "poll", "read", "sigbus" };
	const char *name;

	if (!kst_arg_str(args, "handler", &name, reply))
		return false;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		*kind = (enum handler_kind)i;
		if (!strcmp(name, names[i]))
			return true;
	}
	*reply = kst_error("handler: must be poll, read or sigbus");
	return false;
}

static json_t *op_fault_throughput(struct kst_subject *s, const json_t *args)
{
	struct crowd c = { .batch = 1, .gate = PTHREAD_MUTEX_INITIALIZER };
	json_t *reply = kst_loop_init(&c.loop, s, args, true);
	uint64_t threads = 1;

	if (!reply && (!json_object_get(args, "access") || c.loop.access >= KST_GUP))
		reply = kst_error("access: must be read or write");
	if (!reply && find_kind(args, &c.kind, &reply) &&
	    kst_arg_range_or(args, "threads", 1, 1, MAX_THREADS, &threads, &reply) &&
	    kst_arg_range_or(args, "batch", 1, 1, MAX_BATCH, &c.batch, &reply) && c.loop.mem.pages % (threads * c.batch))
		reply = kst_error("pages: must be a multiple of threads * batch");
	c.threads = (unsigned int)threads;
	if (!reply)
		reply = run(&c);
	kst_mem_unmap(&c.last);
	kst_loop_free(&c.loop);
	return reply;
}

const struct kst_op kst_throughput_ops[] = { { "fault_throughput", op_fault_throughput }, { NULL, NULL } };
