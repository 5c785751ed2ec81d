/* SPDX-License-Identifier: MIT */
/* link.c - the agent's side of a subject: start it, ask it, bound it, end it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "subject.h"

#define SUBJECTS_MAX 256
#define END_MS 10000

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* True when `fd` is ready for `events` (or broken) before the deadline. */
static bool await(int fd, short events, uint64_t deadline)
{
	struct pollfd ready = {.fd = fd, .events = events};
	int n;

	do {
		uint64_t now = now_ms();

		n = poll(&ready, 1, now < deadline ? (int)(deadline - now) : 0);
	} while (n < 0 && errno == EINTR);
	return n > 0;
}

static struct kst_link *add(struct kst_agent *agent, uint64_t id, pid_t pid, int fd)
{
	struct kst_link **grown = realloc(agent->links, (agent->count + 1) * sizeof(struct kst_link *));
	struct kst_link *link = malloc(sizeof(*link));

	if (!grown || !link)
		abort();
	*link = (struct kst_link){.id = id, .pid = pid, .fd = fd};
	agent->links = grown;
	agent->links[agent->count++] = link;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	if (id >= agent->next_id)
		agent->next_id = id + 1;
	return link;
}

struct kst_link *kst_link_find(const struct kst_agent *agent, uint64_t id)
{
	for (size_t i = 0; i < agent->count; i++)
		if (agent->links[i]->id == id)
			return agent->links[i];
	return NULL;
}

/* Makes a process of its own of what may have been a Python interpreter. */
static _Noreturn void become_subject(int ctl, pid_t agent)
{
	const struct rlimit no_core = {0, 0};
	sigset_t none;
	int fd;

	sigemptyset(&none);
	for (int signal = 1; signal < NSIG; signal++)
		sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setpgid(0, 0); /* a Ctrl-C at the terminal is the agent's to handle */
	setrlimit(RLIMIT_CORE, &no_core);
	if (dup2(ctl, 3) < 0 || close_range(4, ~0u, 0))
		_exit(3);
	fd = open("/dev/null", O_RDWR);
	if (fd >= 0) {
		dup2(fd, 0);
		dup2(fd, 1);
		close(fd);
	}
	/* Should memory run out, the kernel is to take the subject and not the agent. */
	fd = open("/proc/self/oom_score_adj", O_WRONLY);
	if (fd >= 0) {
		if (write(fd, "1000", 4) < 0)
			(void)errno;
		close(fd);
	}
	if (!kst_die_with_agent(agent))
		_exit(0);
	fcntl(3, F_SETFD, FD_CLOEXEC);
	kst_subject_run(kst_subject_new(3, agent));
}

struct kst_link *kst_link_new(struct kst_agent *agent, json_t **reply)
{
	pid_t self = getpid(), pid;
	int pair[2];

	if (agent->count >= SUBJECTS_MAX) {
		*reply = kst_error("there are %d subjects already: end some", SUBJECTS_MAX);
		return NULL;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) {
		*reply = kst_errno(errno, "socketpair");
		return NULL;
	}
	pid = fork();
	if (pid == 0)
		become_subject(pair[1], self);
	close(pair[1]);
	if (pid < 0) {
		*reply = kst_errno(errno, "fork");
		close(pair[0]);
		return NULL;
	}
	return add(agent, agent->next_id, pid, pair[0]);
}

static bool send_all(int fd, struct iovec *parts, uint64_t deadline)
{
	struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};

	while (parts[0].iov_len + parts[1].iov_len) {
		ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN && await(fd, POLLOUT, deadline))
			continue;
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

/* Reads exactly `len` bytes; a descriptor sent along goes to *passed. On false errno is 0 (the end) or ETIME. */
static bool receive_all(int fd, void *buffer, size_t len, int *passed, uint64_t deadline)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;

	for (size_t got = 0; got < len;) {
		struct iovec part = {(char *)buffer + got, len - got};
		struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
		struct cmsghdr *header;
		ssize_t n;

		if (!await(fd, POLLIN, deadline)) {
			errno = ETIME;
			return false;
		}
		if (passed) {
			message.msg_control = &control;
			message.msg_controllen = sizeof(control);
		}
		n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0) {
			errno = 0;
			return false;
		}
		header = passed ? CMSG_FIRSTHDR(&message) : NULL;
		if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
			memcpy(passed, CMSG_DATA(header), sizeof(*passed));
		got += (size_t)n;
	}
	return true;
}

/* One line of /proc/PID/NAME, for the message about a hang. */
static void read_proc(pid_t pid, const char *name, char *buffer, size_t size)
{
	char path[64];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, buffer, size - 1);
		close(fd);
	}
	buffer[n > 0 ? n : 0] = 0;
}

static json_t *describe_hang(pid_t pid, uint64_t timeout_ms)
{
	char stat[512], wchan[64], text[256];
	const char *state;

	read_proc(pid, "stat", stat, sizeof(stat));
	read_proc(pid, "wchan", wchan, sizeof(wchan));
	state = strrchr(stat, ')');
	snprintf(text, sizeof(text),
		 "no answer within %llu ms: the main thread of process %d was in state %c in %s; killed",
		 (unsigned long long)timeout_ms, (int)pid, state && state[1] ? state[2] : '?', *wchan ? wchan : "?");
	return json_pack("{s:s}", "hang", text);
}

json_t *kst_link_describe_end(int status)
{
	char text[128];

	if (status < 0)
		return json_pack("{s:s}", "hang", "the process did not end within its bound after SIGKILL");
	if (WIFSIGNALED(status)) {
		const char *name = sigabbrev_np(WTERMSIG(status));

		snprintf(text, sizeof(text), "killed by SIG%s", name ? name : "?");
	} else {
		snprintf(text, sizeof(text), "ended with exit code %d", WEXITSTATUS(status));
	}
	return json_pack("{s:s}", "died", text);
}

/* A subject has forked. The frame comes from a process that tests may have damaged: take only a child of ours. */
static void adopt(struct kst_agent *agent, const struct kst_frame *frame, int fd)
{
	siginfo_t info;

	if (frame->pid <= 0 || waitid(P_PID, (id_t)frame->pid, &info, WEXITED | WNOHANG | WNOWAIT) ||
	    kst_link_find(agent, frame->id)) {
		close(fd);
		return;
	}
	add(agent, frame->id, frame->pid, fd);
	if (agent->count > SUBJECTS_MAX)
		kst_link_kill(agent, agent->links[agent->count - 1]);
}

/*
 * The next frame's header and payload (malloc'ed). On false errno is ETIME for
 * a timeout; anything else means that the other side is gone or talks garbage.
 */
static char *receive(struct kst_agent *agent, int fd, uint64_t deadline)
{
	for (;;) {
		struct kst_frame frame;
		int passed = -1;
		char *payload;

		if (!receive_all(fd, &frame, sizeof(frame), &passed, deadline))
			return NULL;
		if (frame.kind == KST_FORKED && passed >= 0) {
			adopt(agent, &frame, passed);
			continue;
		}
		if (passed >= 0)
			close(passed);
		errno = EPROTO;
		if (frame.kind != KST_REPLY || frame.len < 2 || frame.len > KST_REPLY_MAX)
			return NULL;
		payload = malloc(frame.len + 1);
		if (!payload || !receive_all(fd, payload, frame.len, NULL, deadline)) {
			free(payload);
			return NULL;
		}
		payload[frame.len] = 0;
		return payload;
	}
}

char *kst_link_call(struct kst_agent *agent, struct kst_link *link, const char *line, size_t len, uint64_t timeout_ms,
		    json_t **reply)
{
	struct kst_frame frame = {.kind = KST_REQUEST, .id = agent->next_id, .len = len};
	struct iovec parts[2] = {{&frame, sizeof(frame)}, {(char *)(uintptr_t)line, len}};
	uint64_t deadline = now_ms() + timeout_ms;
	char *answer = NULL;
	int why;

	errno = ETIME;
	if (send_all(link->fd, parts, deadline))
		answer = receive(agent, link->fd, deadline);
	if (answer)
		return answer;
	why = errno;
	if (why == ETIME || why == EAGAIN) {
		*reply = describe_hang(link->pid, timeout_ms);
		kst_link_kill(agent, link);
	} else if (why == EPROTO) {
		kst_link_kill(agent, link);
		*reply = json_pack("{s:s}", "died", "it answered with garbage; killed");
	} else {
		*reply = kst_link_describe_end(kst_link_kill(agent, link));
	}
	return NULL;
}

/* `grace_ms`: how long it may take to leave by itself. */
static int reap(struct kst_agent *agent, struct kst_link *link, uint64_t grace_ms)
{
	int pidfd = (int)syscall(SYS_pidfd_open, link->pid, 0);
	int status = -1;

	close(link->fd);
	if (!grace_ms || pidfd < 0 || !await(pidfd, POLLIN, now_ms() + grace_ms))
		kill(link->pid, SIGKILL);
	if (pidfd < 0 || await(pidfd, POLLIN, now_ms() + END_MS))
		while (waitpid(link->pid, &status, 0) < 0 && errno == EINTR)
			;
	if (pidfd >= 0)
		close(pidfd);
	for (size_t i = 0; i < agent->count; i++)
		if (agent->links[i] == link)
			agent->links[i] = agent->links[--agent->count];
	free(link);
	return status;
}

int kst_link_kill(struct kst_agent *agent, struct kst_link *link)
{
	return reap(agent, link, 0);
}

void kst_link_end(struct kst_agent *agent, struct kst_link *link)
{
#if defined(__SANITIZE_ADDRESS__)
	reap(agent, link, END_MS); /* its leak checker is to run */
#else
	reap(agent, link, 0);
#endif
}
