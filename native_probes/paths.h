/* SPDX-License-Identifier: MIT */
/* paths.h - a path whose cost is measured: a row with its set-up, what the clock sees of it, and its undoing. */
#ifndef KST_PATHS_H
#define KST_PATHS_H

#include "crowd.h"
#include "hints.h"
#include "traps.h"
#include "uapi.h"

#include <semaphore.h>
#include <sys/types.h>

struct work {
	struct kst_loop loop;
	const struct path *path;
	bool tracked;         /* the range is protected when the clock starts: `mode` was given */
	bool registered;
	bool lie;             /* control drop_in_child */
	uint64_t vmas;        /* how many mappings the range is cut into, where the path says so */
	char *elsewhere;      /* an empty mapping of the range's length, at a page table's first entry */
	char *elsewhere_room;
	char *bytes;          /* as much ordinary memory, or 1 MiB */
	size_t bytes_len;
	int fd;               /* the path's file of /proc/self */
	pid_t child;
	struct kst_crowd crowd;
	uint64_t *stamps;     /* shared with children; not 0: when the path began and ended, where `run` is more than it */
	bool own_swap;        /* swap was set up here */
	struct kst_handler reader; /* of events */
	struct uffd_msg event;     /* the last that it read */
	sem_t told;                /* posted for each */
	struct kst_hints hints;
};

/* The clock runs during `run` and nothing else; what gives an int gives 0 or an errno. */
struct path {
	const char *name;
	const char *file;              /* opened as `fd` */
	json_t *(*open)(struct work *w); /* once, before all rounds; why not, or NULL */
	void (*contents)(const struct kst_mem *mem); /* fills the pages, before they are protected */
	int (*before)(struct work *w);
	int (*run)(struct work *w);
	int (*after)(struct work *w);
	void (*close)(struct work *w); /* once, if `open` was called */
	bool tracked;  /* needs `mode` */
	bool bare;     /* takes no `mode` */
	bool absent;   /* the pages are unmapped when the clock starts: anon has none then, the others keep their contents */
	bool fill;     /* `before` makes the pages what they are: nothing touches them */
	bool unmapped; /* the mapping is made anew for each round */
	bool gone;     /* the registration ends with the path */
	bool fresh;    /* not registered yet */
	bool forks;    /* a child's start or end is a part of it: there is to be a crowd */
	uint64_t features; /* of the userfaultfd that `mode` needs, besides */
};

/* Tables; each ends with a row without a name. */
extern const struct path kst_access_paths[]; /* paths_access.c: what a thread's accesses do */
extern const struct path kst_call_paths[];   /* paths_calls.c: calls that know nothing of userfaultfd */
extern const struct path kst_uffd_paths[];   /* paths_uffd.c: calls on a userfaultfd */
extern const struct path kst_event_paths[];  /* paths_events.c: calls that a second thread is told of */
extern const struct path kst_swap_paths[];   /* paths_swap.c: pages that come in from swap */
extern const struct path kst_numa_paths[];   /* paths_numa.c: pages that NUMA balancing wants to hear of */

/* In a child, before it reads the clock: it does not have the page yet, and a stamp must not pay for that. */
static inline void kst_path_touch_stamps(const struct work *w) { *(volatile uint64_t *)w->stamps = 0; }

int kst_path_register(struct work *w); /* the range, with WP or RWP */
int kst_path_start_child(struct work *w); /* it shares the pages and sleeps */
int kst_path_stop_child(struct work *w);
int kst_path_mremap(struct work *w);      /* the range, to `elsewhere` */
int kst_path_empty_elsewhere(struct work *w); /* which is an empty mapping again */

#endif
