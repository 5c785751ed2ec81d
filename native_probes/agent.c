/* SPDX-License-Identifier: MIT */
/* agent.c - requests to the agent itself, and the way to subjects and back. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "vcpu.h"

typedef json_t *agent_op_fn(struct kst_agent *agent, const json_t *args);

static json_t *op_hello(struct kst_agent *agent, const json_t *args)
{
	(void)agent, (void)args;
	return kst_ok(json_pack("{s:i, s:i}", "protocol", 1, "pid", (int)getpid()));
}

static json_t *op_caps(struct kst_agent *agent, const json_t *args)
{
	(void)agent, (void)args;
	return kst_ok(kst_caps());
}

static json_t *op_subject_new(struct kst_agent *agent, const json_t *args)
{
	struct kst_link *link;
	json_t *reply = NULL;
	bool one;
	int err;

	if (!kst_arg_bool_or(args, "one_cpu", false, &one, &reply))
		return reply;
	err = kst_cpus_place(one); /* the agent too, which passes on each request: the subject inherits it */
	if (err)
		return kst_errno(err, "sched_setaffinity");
	link = kst_link_new(agent, &reply);
	if (!link)
		return reply;
	return kst_ok(json_pack("{s:I, s:i}", "subject", (json_int_t)link->id, "pid", (int)link->pid));
}

static json_t *op_subject_end(struct kst_agent *agent, const json_t *args)
{
	struct kst_link *link;
	json_t *reply = NULL;
	uint64_t id;
	int status;

	if (!kst_arg_u64(args, "subject", &id, &reply))
		return reply;
	if (id < 1 || id >= agent->next_id)
		return kst_error("no subject has the handle %llu", (unsigned long long)id);
	link = kst_link_find(agent, id);
	/* Without a link it has died already, and its end was reported then. */
	status = link ? kst_link_kill(agent, link) : 0;
	return status < 0 ? kst_link_describe_end(status) : kst_ok(NULL);
}

static json_t *op_subjects(struct kst_agent *agent, const json_t *args)
{
	json_t *list = json_array();

	(void)args;
	for (size_t i = 0; i < agent->count; i++)
		json_array_append_new(list, json_integer((json_int_t)agent->links[i]->id));
	return kst_ok(list);
}

static json_t *op_kernel_log(struct kst_agent *agent, const json_t *args)
{
	(void)agent, (void)args;
	return kst_kernel_log();
}

static json_t *op_load_kvm(struct kst_agent *agent, const json_t *args)
{
	(void)agent, (void)args;
	return kst_load_kvm();
}

static json_t *op_keep_vm(struct kst_agent *agent, const json_t *args)
{
	(void)agent, (void)args;
	return kst_vcpu_keep();
}

static const struct {
	const char *name;
	agent_op_fn *fn;
} ops[] = {
	{"hello", op_hello},		 {"caps", op_caps},	    {"kernel_log", op_kernel_log},
	{"subject_new", op_subject_new}, {"subject_end", op_subject_end}, {"subjects", op_subjects},
	{"keep_vm", op_keep_vm},	 {"load_kvm", op_load_kvm},
};

static json_t *run(void *ctx, const json_t *args)
{
	json_t *reply = NULL;
	const char *name;

	if (!kst_arg_str(args, "op", &name, &reply))
		return reply;
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
		if (!strcmp(ops[i].name, name))
			return ops[i].fn(ctx, args);
	return kst_error("no operation of the agent is called %s (an operation of a subject needs `subject`)", name);
}

#define TIMEOUT_DEFAULT_MS 10000
#define TIMEOUT_MAX_MS (24u * 3600 * 1000)

/*
 * A single operation that waits takes `timeout_ms` for its own bound: the
 * agent's must lie beyond it, else both would end at once.
 */
static bool waits_itself(const json_t *request)
{
	static const char *const waiting[] = {"ticket", "events", "poll", "knob"};
	const char *op = json_string_value(json_object_get(request, "op"));

	for (size_t i = 0; op && i < sizeof(waiting) / sizeof(waiting[0]); i++)
		if (!strcmp(op, waiting[i]))
			return true;
	return false;
}

static char *to_subject(struct kst_agent *agent, const json_t *request, const char *line, size_t len)
{
	const json_t *id = json_object_get(request, "id");
	struct kst_link *link;
	bool waits = waits_itself(request);
	json_t *reply = NULL;
	uint64_t subject, timeout_ms;
	char *answer;

	if (!kst_arg_u64(request, "subject", &subject, &reply) ||
	    !kst_arg_range_or(request, "timeout_ms", TIMEOUT_DEFAULT_MS, !waits, TIMEOUT_MAX_MS, &timeout_ms, &reply))
		return kst_reply_line(id, reply);
	link = kst_link_find(agent, subject);
	if (!link)
		return kst_reply_line(id, kst_error("no subject has the handle %llu", (unsigned long long)subject));
	if (waits)
		timeout_ms += TIMEOUT_DEFAULT_MS;
	answer = kst_link_call(agent, link, line, len, timeout_ms, &reply);
	return answer ? answer : kst_reply_line(id, reply);
}

/* Does a request go to its subject, or does the agent answer it? */
static bool for_subject(const json_t *request)
{
	const char *op = json_string_value(json_object_get(request, "op"));

	return json_object_get(request, "subject") && !(op && !strcmp(op, "subject_end"));
}

char *kst_agent_handle(struct kst_agent *agent, const char *line, size_t len)
{
	json_error_t error;
	json_t *request;
	char *answer;

	if (len > KST_LINE_MAX)
		return kst_reply_line(NULL, kst_error("the request is longer than %u bytes", KST_LINE_MAX));
	request = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
	if (!request)
		return kst_reply_line(NULL, kst_error("not JSON: %s", error.text));
	if (!json_is_object(request))
		answer = kst_reply_line(NULL, kst_error("the request is not a JSON object"));
	else if (!json_is_integer(json_object_get(request, "id")))
		answer = kst_reply_line(NULL, kst_error("argument id is missing or not an integer"));
	else if (for_subject(request))
		answer = to_subject(agent, request, line, len);
	else
		answer = kst_answer(request, run, agent);
	json_decref(request);
	return answer;
}

struct kst_agent *kst_agent_new(void)
{
	struct kst_agent *agent = calloc(1, sizeof(*agent));

	if (agent)
		agent->next_id = 1;
	return agent;
}

void kst_agent_free(struct kst_agent *agent)
{
	while (agent->count)
		kst_link_end(agent, agent->links[agent->count - 1]);
	free(agent->links);
	free(agent);
}
