/* SPDX-License-Identifier: MIT */
/* fork.c - the subject as a process: fork, its files in /proc, and quiet before a measurement. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "subject.h"

#define TEXT_MAX (1u << 20)

/* Only the calling thread is in the child: no actor, no reader of events. */
static _Noreturn void run_child(struct kst_subject *s, struct kst_drain *drain, int ctl)
{
	kst_drain_forget(drain);
	close(s->ctl);
	s->ctl = ctl;
	s->forked = true;
	s->actors = s->tickets = (struct kst_table){NULL, 0};
	for (size_t i = 0; i < s->uffds.count; i++) /* what the parent had read is the parent's to report */
		if (s->uffds.items[i])
			((struct kst_uffd *)s->uffds.items[i])->queued = 0;
	if (s->pagemap_fd >= 0)
		close(s->pagemap_fd); /* it shows the parent's memory */
	s->pagemap_fd = -1;
	if (!kst_die_with_agent(s->agent))
		_exit(0);
	kst_subject_run(s);
}

/* Tells the agent of its new child and hands over its control socket. */
static bool announce(const struct kst_subject *s, uint64_t id, pid_t pid, int fd)
{
	struct kst_frame frame = {.kind = KST_FORKED, .pid = pid, .id = id};
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {{0}};
	struct iovec part = {&frame, sizeof(frame)};
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	/* So small a message on a stream socket is sent whole or not at all. */
	return sendmsg(s->ctl, &message, MSG_NOSIGNAL) == sizeof(frame);
}

/* The handle of the userfaultfd that the fork event of `uffd` brought, or 0; the event is taken out of the queue. */
static size_t take_fork_event(struct kst_subject *s, struct kst_uffd *uffd)
{
	for (size_t i = 0; i < uffd->queued; i++) {
		int fd = (int)uffd->queue[i].arg.fork.ufd;

		if (uffd->queue[i].event != UFFD_EVENT_FORK)
			continue;
		uffd->queued--;
		memmove(uffd->queue + i, uffd->queue + i + 1, (uffd->queued - i) * sizeof(uffd->queue[0]));
		return kst_uffd_add(s, fd, uffd->features);
	}
	return 0;
}

/* [handle, handle of what the fork event of that one brought] of every userfaultfd that had such an event. */
static json_t *take_each(struct kst_subject *s)
{
	json_t *taken = json_array();
	size_t count = s->uffds.count, handle;

	for (size_t i = 0; i < count; i++) {
		handle = s->uffds.items[i] ? take_fork_event(s, s->uffds.items[i]) : 0;
		if (handle)
			json_array_append_new(taken, json_pack("[I, I]", (json_int_t)(i + 1), (json_int_t)handle));
	}
	return taken;
}

/*
 * Another process forks that has a userfaultfd which is read here: the events are read from `on` to the call without
 * it, which tells what came.
 */
static json_t *op_drain(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL;
	bool on;

	if (!kst_arg_bool_or(args, "on", true, &on, &reply))
		return reply;
	if (on == (s->drain != NULL))
		return kst_error(on ? "events are being read already" : "no events are being read");
	if (on) {
		s->drain = kst_drain_begin(s);
		return s->drain ? kst_ok(NULL) : kst_error("no userfaultfd has asked for events");
	}
	kst_drain_end(s->drain);
	s->drain = NULL;
	return kst_ok(json_pack("{s:o}", "uffds", take_each(s)));
}

static json_t *op_fork(struct kst_subject *s, const json_t *args)
{
	struct kst_uffd *uffd = NULL;
	struct kst_drain *drain;
	json_t *reply = NULL;
	uint64_t id = s->next_subject;
	size_t handle;
	int pair[2], err;
	bool each;
	pid_t pid;

	if (!kst_arg_bool_or(args, "each", false, &each, &reply))
		return reply;
	if (json_object_get(args, "uffd")) {
		uffd = kst_table_arg(&s->uffds, args, "uffd", &reply);
		if (!uffd)
			return reply;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return kst_errno(errno, "socketpair");
	drain = kst_drain_begin(s);
	/*
	 * CLONE_PARENT makes the child one of the agent's: it reaps it, and the
	 * child outlives this subject. fork() cannot do that. The other threads
	 * of this process hold no lock of the C library at this moment.
	 */
	pid = (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
	err = errno;
	if (pid == 0) {
		close(pair[0]);
		run_child(s, drain, pair[1]);
	}
	kst_drain_end(drain);
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return kst_errno(err, "fork");
	}
	s->next_subject++;
	if (!announce(s, id, pid, pair[0]))
		_exit(3);
	close(pair[0]);
	reply = json_pack("{s:I, s:i}", "subject", (json_int_t)id, "pid", (int)pid);
	handle = uffd ? take_fork_event(s, uffd) : 0;
	if (handle)
		json_object_set_new(reply, "uffd", json_integer((json_int_t)handle));
	if (each)
		json_object_set_new(reply, "uffds", take_each(s));
	return kst_ok(reply);
}

/* Always valid JSON text, whatever a kernel prints. */
static json_t *to_text(char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((text[i] < ' ' && text[i] != '\n' && text[i] != '\t') || text[i] > '~')
			text[i] = '?';
	return json_stringn(text, len);
}

/* Control hide_flags: of the flags of a mapping in smaps, those of userfaultfd are not to be seen. */
static void hide_flags(char *text, size_t len)
{
	for (size_t i = 0; i + 2 < len; i++)
		if (text[i] == ' ' && text[i + 1] == 'u' && strchr("mirw", text[i + 2]))
			text[i + 1] = '-';
}

static json_t *op_proc_read(struct kst_subject *s, const json_t *args)
{
	/* Files of text that show the subject and change nothing. */
	static const char *const names[] = {
		"smaps", "smaps_rollup", "maps",   "status", "stat",	  "statm",     "numa_maps", "limits",
		"io",	 "sched",	 "cmdline", "comm",   "oom_score", "schedstat", "wchan",
	};
	char path[64] = "/proc/self/", *text;
	size_t i = 0, got = 0;
	uint64_t max;
	json_t *reply = NULL;
	const char *name;
	ssize_t n = 0;
	int fd, err;

	if (!kst_arg_str(args, "name", &name, &reply) ||
	    !kst_arg_range_or(args, "max", TEXT_MAX, 1, TEXT_MAX, &max, &reply))
		return reply;
	while (i < sizeof(names) / sizeof(names[0]) && strcmp(names[i], name))
		i++;
	if (i == sizeof(names) / sizeof(names[0]))
		return kst_error("argument name: /proc/self/%s is not one that proc_read may read", name);
	fd = open(strcat(path, names[i]), O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return kst_errno(errno, path);
	text = malloc(max);
	if (!text)
		abort();
	do {
		n = read(fd, text + got, max - got);
		got += n > 0 ? (size_t)n : 0;
	} while (got < max && (n > 0 || (n < 0 && errno == EINTR)));
	err = errno;
	close(fd);
	if (kst_control(s, "hide_flags"))
		hide_flags(text, got);
	reply = n < 0 ? kst_errno(err, path) : kst_ok(json_pack("{s:o}", "text", to_text(text, got)));
	free(text);
	return reply;
}

/*
 * Pages added lately wait in lists of each CPU for their LRU list, and work on
 * them later shows up in what is measured. MADV_COLD empties the list of the
 * CPU it runs on before it looks at its range; on a page of our own it changes
 * nothing else. So: once on every CPU.
 */
static json_t *op_settle(struct kst_subject *s, const json_t *args)
{
	cpu_set_t before;
	json_t *reply = NULL;
	uint64_t addr;
	void *scratch;

	(void)s;
	if (!kst_arg_u64_or(args, "addr", 0, &addr, &reply))
		return reply;
	if (sched_getaffinity(0, sizeof(before), &before))
		return kst_errno(errno, "sched_getaffinity");
	scratch = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (scratch == MAP_FAILED)
		return kst_errno(errno, "mmap");
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!kst_cpus_has(cpu))
			continue;
		if (!kst_cpus_go_to(cpu) && madvise(scratch, 4096, MADV_COLD))
			reply = kst_errno(errno, "madvise MADV_COLD");
		if (reply)
			break;
	}
	sched_setaffinity(0, sizeof(before), &before);
	munmap(scratch, 4096);
	return reply ? reply : kst_ok(NULL);
}

const struct kst_op kst_process_ops[] = {
	{"fork", op_fork}, {"drain", op_drain}, {"proc_read", op_proc_read}, {"settle", op_settle}, {NULL, NULL}};
