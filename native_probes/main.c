/* SPDX-License-Identifier: MIT */
/*
 * main.c - the agent program: JSON lines from stdin, replies to stdout; `agent stopping`: through its memory, where the
 * machine stops for each (stop.c). `agent crowd` leaves users behind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "crowd.h"
#include "kst.h"
#include "loop.h"
#include "stop.h"

struct reader {
	size_t start, end; /* the bytes read and not yet handed out */
	bool eof;
	char buffer[KST_LINE_MAX + 2];
};

/* Reads more, after moving what is there to the front. False at the end of input. */
static bool fill(struct reader *r)
{
	ssize_t n;

	memmove(r->buffer, r->buffer + r->start, r->end - r->start);
	r->end -= r->start;
	r->start = 0;
	do
		n = read(STDIN_FILENO, r->buffer + r->end, sizeof(r->buffer) - r->end);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		r->eof = true;
	else
		r->end += (size_t)n;
	return n > 0;
}

/*
 * The next line without its newline, or NULL at the end of input. Of a line
 * that is too long only its first KST_LINE_MAX + 1 bytes are returned, which
 * the agent refuses; the rest is skipped.
 */
static const char *next_line(struct reader *r, size_t *len)
{
	size_t seen = 0;
	bool too_long = false;

	for (;;) {
		char *line = r->buffer + r->start;
		char *newline = memchr(line + seen, '\n', r->end - r->start - seen);

		if (newline) {
			r->start = (size_t)(newline + 1 - r->buffer);
			*len = too_long ? KST_LINE_MAX + 1 : (size_t)(newline - line);
			return line;
		}
		seen = r->end - r->start;
		if (seen > KST_LINE_MAX) {
			too_long = true;
			r->start = r->end = seen = 0;
		}
		if (!fill(r)) {
			*len = too_long ? KST_LINE_MAX + 1 : seen;
			r->start = r->end;
			return *len ? r->buffer : NULL;
		}
	}
}

static bool write_line(char *reply)
{
	char newline[] = "\n";
	struct iovec parts[2] = {{reply, strlen(reply)}, {newline, 1}};
	struct iovec *at = parts;

	while (at < parts + 2) {
		ssize_t n = writev(STDOUT_FILENO, at, (int)(parts + 2 - at));

		if (n < 0 && errno != EINTR)
			return false;
		for (; at < parts + 2 && n >= (ssize_t)at->iov_len; at++)
			n -= (ssize_t)at->iov_len;
		if (at < parts + 2 && n > 0) {
			at->iov_base = (char *)at->iov_base + n;
			at->iov_len -= (size_t)n;
		}
	}
	return true;
}

static bool serve_stream(struct kst_agent *agent)
{
	struct reader *reader = calloc(1, sizeof(*reader));
	const char *line;
	bool written = true;
	size_t len;

	while (reader && written && (line = next_line(reader, &len))) {
		char *reply = kst_agent_handle(agent, line, len);

		written = reply && write_line(reply);
		free(reply);
	}
	written &= reader != NULL;
	free(reader);
	return written;
}

static bool serve_stopping(struct kst_agent *agent)
{
	char *reply = NULL;
	const char *line;
	size_t len;

	kst_settle_begin();
	while ((line = kst_stop_exchange(reply, &len))) {
		free(reply);
		reply = kst_agent_handle(agent, line, len);
	}
	free(reply);
	fputs("agent: nobody stops the machine\n", stderr);
	return false;
}

static int serve(bool (*how)(struct kst_agent *agent))
{
	struct kst_agent *agent = kst_agent_new();
	bool served;

	signal(SIGPIPE, SIG_IGN);
	/* A subject's stray children come to us, and end when we do. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	served = agent && how(agent);
	if (agent)
		kst_agent_free(agent);
	return served ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "crowd"))
		return kst_crowd_of_boot() ? 1 : 0;
	return serve(argc == 2 && !strcmp(argv[1], "stopping") ? serve_stopping : serve_stream);
}
