/* SPDX-License-Identifier: MIT */
/*
 * kst.h - what the files of the probe share.
 *
 * An operation takes the JSON arguments of its request and answers with a new
 * reference to a JSON object that holds `result`, or `errno` and `message`, or
 * `error`; see docs/probe-protocol.md.
 */
#ifndef KST_H
#define KST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kst_subject;

typedef json_t *kst_op_fn(struct kst_subject *s, const json_t *args);

struct kst_op {
	const char *name;
	kst_op_fn *fn;
};

/* Replies. kst_ok() steals `result` (NULL means {}). */
json_t *kst_ok(json_t *result);
json_t *kst_errno(int err, const char *what);
json_t *kst_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * Arguments. Each returns false, and sets *reply to a ready error, when the
 * argument is missing without default, ill-typed or out of range.
 */
bool kst_arg_u64(const json_t *args, const char *name, uint64_t *out, json_t **reply);
bool kst_arg_u64_or(const json_t *args, const char *name, uint64_t dflt, uint64_t *out, json_t **reply);
bool kst_arg_str(const json_t *args, const char *name, const char **out, json_t **reply);
bool kst_arg_bool_or(const json_t *args, const char *name, bool dflt, bool *out, json_t **reply);

/* True when the negative control `name` is on in this subject. */
bool kst_control(const struct kst_subject *s, const char *name);

/* Tables of operations; each ends with {NULL, NULL}. */
extern const struct kst_op kst_region_ops[];   /* region.c: memory of the subject */
extern const struct kst_op kst_uffd_ops[];     /* uffd.c: userfaultfd ioctls and events */
extern const struct kst_op kst_actor_ops[];    /* actor.c: threads that access memory */
extern const struct kst_op kst_pagemap_ops[];  /* pagemap.c: pagemap entries and PAGEMAP_SCAN */
extern const struct kst_op kst_latency_ops[];  /* latency.c: fault_latency, protect_cost, scan_cost */
extern const struct kst_op kst_evict_ops[];    /* evict.c: eviction against racing writers */

/* The front ends' whole interface (agent.c): one request line in, one malloc'ed reply line out. */
struct kst_agent;
struct kst_agent *kst_agent_new(void);
char *kst_agent_handle(struct kst_agent *agent, const char *line, size_t len);
void kst_agent_free(struct kst_agent *agent);

#endif
