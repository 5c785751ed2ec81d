/* SPDX-License-Identifier: MIT */
/* agent.h - the agent and its links to subjects. */
#ifndef KST_AGENT_H
#define KST_AGENT_H

#include <sys/types.h>

#include "kst.h"

/* A live subject. Every subject is a child process of the agent, whoever forked it. */
struct kst_link {
	uint64_t id;
	pid_t pid;
	int fd; /* the agent's end of its control socket */
};

struct kst_agent {
	struct kst_link **links;
	size_t count;
	uint64_t next_id;
};

/* link.c. */
struct kst_link *kst_link_new(struct kst_agent *agent, json_t **reply);
struct kst_link *kst_link_find(const struct kst_agent *agent, uint64_t id);
/* Returns the malloc'ed reply line of the subject; or NULL with *reply saying that it died, or hung and was killed. */
char *kst_link_call(struct kst_agent *agent, struct kst_link *link, const char *line, size_t len, uint64_t timeout_ms,
		    json_t **reply);
/* Kills and reaps; `link` is no more. Returns the wait status, -1 if the process did not end within its bound. */
int kst_link_kill(struct kst_agent *agent, struct kst_link *link);
/* The reply that tells of such a status. */
json_t *kst_link_describe_end(int status);
/* The same at the end of the agent; under a sanitizer the subject may first leave by itself. */
void kst_link_end(struct kst_agent *agent, struct kst_link *link);

/* kernel_log.c: what the kernel said since the last call, and its taint. */
json_t *kst_kernel_log(void);

/* modules.c */
json_t *kst_load_kvm(void);

#endif
