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

/* A word of memory: any integer, a negative one standing for the word with the same bits. */
bool kst_arg_word_or(const json_t *args, const char *name, uint64_t dflt, uint64_t *out, json_t **reply);

/* The same with bounds, both inclusive. */
bool kst_arg_range(const json_t *args, const char *name, uint64_t min, uint64_t max, uint64_t *out, json_t **reply);
bool kst_arg_range_or(const json_t *args, const char *name, uint64_t dflt, uint64_t min, uint64_t max, uint64_t *out,
		      json_t **reply);
bool kst_check_range(const char *name, uint64_t value, uint64_t min, uint64_t max, json_t **reply);
bool kst_arg_str_or(const json_t *args, const char *name, const char *dflt, const char **out, json_t **reply);

/* The reply as the negative controls of this subject bend it; takes over the reference. */
json_t *kst_lie(struct kst_subject *s, json_t *reply);

/* True when the negative control `name` is on in this subject. */
bool kst_control(const struct kst_subject *s, const char *name);

/* Flips a bit behind the kernel's back, of a page that is not protected now. */
void kst_flip_bit(uint64_t addr);

/* Tables of operations; each ends with {NULL, NULL}. */
extern const struct kst_op kst_region_ops[];   /* region.c: memory of the subject */
extern const struct kst_op kst_memory_ops[];   /* memory.c: patterns in memory, madvise and its kin */
extern const struct kst_op kst_uffd_ops[];     /* uffd.c: userfaultfd ioctls */
extern const struct kst_op kst_event_ops[];    /* events.c: poll and read of userfaultfd events */
extern const struct kst_op kst_process_ops[];  /* fork.c: the subject as a process: fork, proc_read, settle */
extern const struct kst_op kst_control_ops[];  /* control.c: negative controls */
extern const struct kst_op kst_actor_ops[];    /* actor.c: threads that access memory */
extern const struct kst_op kst_ticket_ops[];   /* ticket.c: what became of an access */
extern const struct kst_op kst_pagemap_ops[];  /* pagemap.c: pagemap entries and PAGEMAP_SCAN */
extern const struct kst_op kst_contents_ops[]; /* contents.c: bytes of pages, read without an access */
extern const struct kst_op kst_latency_ops[];  /* latency.c: fault_latency, protect_cost, scan_cost */
extern const struct kst_op kst_throughput_ops[]; /* throughput.c: fault_throughput */
extern const struct kst_op kst_node_ops[];     /* nodes.c: move_pages, swap_cycle */
extern const struct kst_op kst_path_ops[];     /* paths.c: path_cost */
extern const struct kst_op kst_waterfall_ops[]; /* waterfall.c: where a sync fault spends what it costs */
extern const struct kst_op kst_vcpu_ops[];     /* vcpu_ops.c: what KVM knows of a vCPU's memory */
extern const struct kst_op kst_evict_ops[];    /* evict.c: eviction against racing writers */
extern const struct kst_op kst_access_ops[];   /* kernel_access.c: accesses by the kernel */
extern const struct kst_op kst_race_ops[];     /* race_rounds.c: protection against accesses without pause */
extern const struct kst_op kst_knob_ops[];     /* knobs.c: settings and counters of the whole machine */
extern const struct kst_op kst_hint_ops[];     /* hints.c: pages that NUMA balancing takes away */
extern const struct kst_op kst_pin_ops[];      /* pins.c: pages pinned for input and output */
extern const struct kst_op kst_held_ops[];     /* held.c: operations while pages are migration entries */
extern const struct kst_op kst_signal_ops[];   /* signals.c: a signal for an actor */
extern const struct kst_op kst_refusal_ops[];  /* refusals.c: ioctls on any pointer, a process without capabilities */

/*
 * Answers one parsed request: `run` is called for its operation or for each
 * one of its batch. Returns the malloc'ed reply line, without newline.
 */
typedef json_t *kst_run_fn(void *ctx, const json_t *args);
char *kst_answer(const json_t *request, kst_run_fn *run, void *ctx);
char *kst_reply_line(const json_t *id, json_t *error);

/* What the kernel can do, each thing probed (caps.c). */
json_t *kst_caps(void);

/* Names of the knobs of knobs.c that can be used here. */
json_t *kst_knobs(void);

/* CPUs that this process was given, whatever it uses of them now (cpus.c). */
int kst_cpus(void);
bool kst_cpus_has(int cpu);
/* Run this thread there, and only there. 0 or an errno. */
int kst_cpus_go_to(int cpu);
/* Run on one of them, or on all again; threads and processes made from here on inherit it. 0 or an errno. */
int kst_cpus_place(bool one);

/* True when pins.c can pin pages: there is io_uring. */
bool kst_can_pin(void);

/* A mask of ioctls as JSON: its bit 63, UFFDIO_API itself, does not fit and goes without saying. */
#define KST_IOCTLS(mask) ((json_int_t)((mask) & INT64_MAX))

#define KST_LINE_MAX (1u << 20)  /* a request */
#define KST_REPLY_MAX (4u << 20) /* a reply */

/* The front ends' whole interface (agent.c): one request line in, one malloc'ed reply line out. */
struct kst_agent;
struct kst_agent *kst_agent_new(void);
char *kst_agent_handle(struct kst_agent *agent, const char *line, size_t len);
void kst_agent_free(struct kst_agent *agent);

#endif
