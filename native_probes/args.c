/* SPDX-License-Identifier: MIT */
/* args.c - replies, and the arguments of requests. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kst.h"

/* Every operation ends here: no json_pack(), which reads its format anew each time. */
json_t *kst_ok(json_t *result)
{
	json_t *reply = json_object();

	json_object_set_new_nocheck(reply, "result", result ? result : json_object());
	return reply;
}

json_t *kst_errno(int err, const char *what)
{
	const char *name = strerrorname_np(err);
	char message[256];

	snprintf(message, sizeof(message), "%s: %s", what, strerrordesc_np(err) ? strerrordesc_np(err) : "unknown error");
	return json_pack("{s:s, s:s}", "errno", name ? name : "UNKNOWN", "message", message);
}

/* The text may quote what the other side sent: keep it printable ASCII, so that it is always valid JSON text. */
static void printable(char *text)
{
	for (; *text; text++)
		if (*text < ' ' || *text > '~')
			*text = '?';
}

json_t *kst_error(const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	printable(text);
	return json_pack("{s:s}", "error", text);
}

static bool to_u64(const json_t *value, const char *name, uint64_t *out, json_t **reply)
{
	if (!json_is_integer(value) || json_integer_value(value) < 0) {
		*reply = value ? kst_error("argument %s: not a non-negative integer", name) :
				 kst_error("argument %s is missing", name);
		return false;
	}
	*out = (uint64_t)json_integer_value(value);
	return true;
}

bool kst_arg_u64(const json_t *args, const char *name, uint64_t *out, json_t **reply)
{
	return to_u64(json_object_get(args, name), name, out, reply);
}

bool kst_arg_u64_or(const json_t *args, const char *name, uint64_t dflt, uint64_t *out, json_t **reply)
{
	const json_t *value = json_object_get(args, name);

	*out = dflt;
	return !value || to_u64(value, name, out, reply);
}

bool kst_arg_word_or(const json_t *args, const char *name, uint64_t dflt, uint64_t *out, json_t **reply)
{
	const json_t *value = json_object_get(args, name);

	if (value && !json_is_integer(value)) {
		*reply = kst_error("argument %s: not an integer", name);
		return false;
	}
	*out = value ? (uint64_t)json_integer_value(value) : dflt;
	return true;
}

bool kst_arg_range(const json_t *args, const char *name, uint64_t min, uint64_t max, uint64_t *out, json_t **reply)
{
	if (!kst_arg_u64(args, name, out, reply))
		return false;
	return kst_check_range(name, *out, min, max, reply);
}

bool kst_arg_range_or(const json_t *args, const char *name, uint64_t dflt, uint64_t min, uint64_t max, uint64_t *out,
		      json_t **reply)
{
	if (!kst_arg_u64_or(args, name, dflt, out, reply))
		return false;
	return kst_check_range(name, *out, min, max, reply);
}

bool kst_check_range(const char *name, uint64_t value, uint64_t min, uint64_t max, json_t **reply)
{
	if (value >= min && value <= max)
		return true;
	*reply = kst_error("argument %s: %llu is not within %llu..%llu", name, (unsigned long long)value,
			   (unsigned long long)min, (unsigned long long)max);
	return false;
}

bool kst_arg_str(const json_t *args, const char *name, const char **out, json_t **reply)
{
	const json_t *value = json_object_get(args, name);

	if (!json_is_string(value)) {
		*reply = value ? kst_error("argument %s: not a string", name) :
				 kst_error("argument %s is missing", name);
		return false;
	}
	*out = json_string_value(value);
	return true;
}

bool kst_arg_str_or(const json_t *args, const char *name, const char *dflt, const char **out, json_t **reply)
{
	if (!json_object_get(args, name)) {
		*out = dflt;
		return true;
	}
	return kst_arg_str(args, name, out, reply);
}

bool kst_arg_bool_or(const json_t *args, const char *name, bool dflt, bool *out, json_t **reply)
{
	const json_t *value = json_object_get(args, name);

	if (value && !json_is_boolean(value)) {
		*reply = kst_error("argument %s: not true or false", name);
		return false;
	}
	*out = value ? json_is_true(value) : dflt;
	return true;
}

static char *dump(json_t *reply)
{
	const json_t *id = json_object_get(reply, "id");
	char *line = json_dumps(reply, JSON_COMPACT | JSON_ENSURE_ASCII);
	char *shorter;

	if (!line || strlen(line) <= KST_REPLY_MAX) {
		json_decref(reply);
		return line;
	}
	free(line);
	shorter = kst_reply_line(id, kst_error("the reply is longer than %u bytes", KST_REPLY_MAX));
	json_decref(reply);
	return shorter;
}

char *kst_reply_line(const json_t *id, json_t *error)
{
	json_t *reply = json_pack("{s:O?}", "id", id);

	if (!id)
		json_object_set_new(reply, "id", json_null());
	json_object_update(reply, error);
	json_decref(error);
	return dump(reply);
}

static json_t *run_one(const json_t *args, kst_run_fn *run, void *ctx)
{
	if (!json_is_object(args))
		return kst_error("an operation is not a JSON object");
	return run(ctx, args);
}

static json_t *run_batch(const json_t *request, const json_t *batch, kst_run_fn *run, void *ctx)
{
	bool stop_on_errno;
	json_t *results, *reply = NULL, *one;
	const json_t *args;
	size_t i;

	if (!json_is_array(batch))
		return kst_error("argument batch: not a list");
	if (!kst_arg_bool_or(request, "stop_on_errno", false, &stop_on_errno, &reply))
		return reply;
	results = json_array();
	json_array_foreach(batch, i, args) {
		one = run_one(args, run, ctx);
		json_array_append_new(results, one);
		if (json_object_get(one, "error") || (stop_on_errno && json_object_get(one, "errno")))
			break;
	}
	return json_pack("{s:o}", "results", results);
}

char *kst_answer(const json_t *request, kst_run_fn *run, void *ctx)
{
	const json_t *batch = json_object_get(request, "batch");
	json_t *body = batch ? run_batch(request, batch, run, ctx) : run(ctx, request);

	return kst_reply_line(json_object_get(request, "id"), body);
}
