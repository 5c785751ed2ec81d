/* SPDX-License-Identifier: MIT */
/*
 * subject.h - a subject: the process that the kernel is tried on.
 *
 * A subject is forked by the agent (or by another subject), reads request
 * frames from `ctl` and answers them, one at a time, in its main thread.
 */
#ifndef KST_SUBJECT_H
#define KST_SUBJECT_H

#include <sys/types.h>

#include "kst.h"
#include "uapi.h"

/* What handles name: items[handle - 1]; NULL once closed. */
struct kst_table {
	void **items;
	size_t count;
};

struct kst_region {
	uint64_t addr;
	uint64_t len;
	uint64_t page_size;
	uint64_t guard; /* bytes kept inaccessible before and after it */
	int fd;         /* -1: no file behind it */
};

#define KST_QUEUE 1024

struct kst_uffd {
	int fd;
	uint64_t features; /* asked for in a UFFDIO_API that succeeded */
	bool reported;     /* control duplicate_event: an event has been reported */
	/* Events read while a call of this subject was under way, oldest first. */
	size_t queued;
	struct uffd_msg queue[KST_QUEUE];
};

struct kst_subject {
	int ctl;
	pid_t agent;
	bool forked;           /* by another subject, not by the agent */
	uint64_t next_subject; /* the number a forked subject gets */
	unsigned int controls; /* bit i: entry i of the table in control.c */
	unsigned int spoilt;   /* control spoil_contents: how often */
	uint64_t untrapped, untrapped_len; /* control spoil_trap: the page that lost its trap; 0: none yet */
	int pagemap_fd;        /* -1: not yet opened */
	struct kst_drain *drain; /* of op drain: events are being read, and nothing else is done meanwhile */
	struct kst_table regions, uffds, actors, tickets;
};

/* One direction each: a request, and what comes back for it. */
enum kst_frame_kind { KST_REQUEST = 1, KST_REPLY, KST_FORKED };

/* Ahead of `len` bytes of JSON. KST_FORKED carries the control socket of the new subject. */
struct kst_frame {
	uint32_t kind;
	int32_t pid;  /* KST_FORKED: of the new subject */
	uint64_t id;  /* KST_REQUEST: number of the next subject; KST_FORKED: number of the new one */
	uint64_t len;
};

/* subject.c. kst_subject_run() never returns. */
struct kst_subject *kst_subject_new(int ctl, pid_t agent);
void kst_subject_free(struct kst_subject *s); /* not while an actor's thread is there */
_Noreturn void kst_subject_run(struct kst_subject *s);
char *kst_subject_handle(struct kst_subject *s, const char *line, size_t len);
json_t *kst_subject_op(void *subject, const json_t *args); /* one operation, as a batch has them */
bool kst_die_with_agent(pid_t agent);

/* Returns the new handle. */
size_t kst_table_add(struct kst_table *table, void *item);
/* The item that argument `name` is the handle of; or NULL, with *reply set. */
void *kst_table_arg(const struct kst_table *table, const json_t *args, const char *name, json_t **reply);
/* The same; without the argument the item made last, in the same batch as a rule: nobody knows its handle yet. */
void *kst_table_arg_or_last(const struct kst_table *table, const json_t *args, const char *name, json_t **reply);
void kst_table_forget(struct kst_table *table, const void *item);

/* region.c: the region that holds `addr`, or NULL. */
const struct kst_region *kst_region_at(const struct kst_subject *s, uint64_t addr);
uint64_t kst_page_size_at(const struct kst_subject *s, uint64_t addr);
void kst_region_free(struct kst_region *region);

/* pattern.c: raw memory; the caller's thread faults like any other access does. */
uint64_t kst_load(uint64_t addr);
void kst_store(uint64_t addr, uint64_t value);
void kst_stamp_page(uint64_t addr, uint64_t page_size, uint64_t seed, uint64_t page);
bool kst_verify_page(uint64_t addr, uint64_t page_size, uint64_t seed, uint64_t page);
uint64_t kst_sum_page(uint64_t addr, uint64_t page_size);

/* pagemap.c: the frame behind a page, 0 if there is none or it is not ours to know (CAP_SYS_ADMIN); its marker. */
uint64_t kst_frame_at(struct kst_subject *s, uint64_t addr);
bool kst_marked_at(struct kst_subject *s, uint64_t addr);

/* uffd.c */
size_t kst_uffd_add(struct kst_subject *s, int fd, uint64_t features);
void kst_uffd_free(struct kst_uffd *uffd);

/*
 * events.c: a call that the kernel answers with an event (fork, mremap, ...)
 * sleeps until somebody reads that event. Between begin and end a thread reads
 * the events of every userfaultfd that asked for some into their queues.
 */
struct kst_drain;
struct kst_drain *kst_drain_begin(struct kst_subject *s);
void kst_drain_end(struct kst_drain *drain);
void kst_drain_forget(struct kst_drain *drain); /* in a forked child: the thread is not there */

/* actor.c, ticket.c */
struct kst_actor;
struct kst_ticket;
void kst_actor_free(struct kst_actor *actor);
void kst_ticket_free(struct kst_ticket *ticket);

#endif
