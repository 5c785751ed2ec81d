/* SPDX-License-Identifier: MIT */
/* traps.h - the faults that a userfaultfd can be told of: how a page is made to cause one, and how it is resolved. */
#ifndef KST_TRAPS_H
#define KST_TRAPS_H

#include "loop.h"

/* Each of the calls gives 0 or an errno. */
struct kst_trap {
	const char *mode;
	uint64_t registers; /* UFFDIO_REGISTER modes */
	bool protects;      /* by WP or RWP, so there is an async mode */
	int (*arm)(const struct kst_loop *l); /* from here on the next access to each page is a fault */
	int (*resolve)(const struct kst_loop *l, char *page, bool wake);
};

/* The trap that the argument `mode` names, or NULL and why. */
const struct kst_trap *kst_trap_find(const json_t *args, json_t **reply);
/* A userfaultfd of this kind for the loop's memory, registered. */
json_t *kst_trap_open(const struct kst_trap *trap, struct kst_loop *l, bool async);

/* Reads one message and gives the page it is about; 0, an errno, or EAGAIN if there was none. */
int kst_trap_read(const struct kst_loop *l, char **page);

/*
 * The thread that resolves faults. `serve` is called each time the userfaultfd is readable and gives 0, EAGAIN
 * or an errno; after an error the range is unregistered, which frees the accessing thread.
 */
struct kst_handler {
	struct kst_loop *loop;
	const struct kst_trap *trap;
	int (*serve)(struct kst_handler *h);
	void *arg;
	pthread_t thread;
	int stop;
	_Atomic uint64_t faults;
	_Atomic int err;
};

json_t *kst_handler_start(struct kst_handler *h); /* loop, trap and serve are set */
json_t *kst_handler_end(struct kst_handler *h);   /* why it failed, or NULL */

#endif
