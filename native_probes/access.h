/* SPDX-License-Identifier: MIT */
/*
 * access.h - one page, and the ways in which the kernel accesses it on behalf of somebody.
 *
 * An accessor that reads leaves what it saw in `got`; one that writes puts `fill` over the beginning of the page.
 */
#ifndef KST_ACCESS_H
#define KST_ACCESS_H

#include "kst.h"

#include <signal.h>

#define KST_ACCESS_SIZE 4096u /* of the page */
#define KST_ACCESS_STACK (64u << 10)

/* Lies in memory that forked processes share. */
struct kst_access {
	char *page;
	char got[KST_ACCESS_SIZE], fill[KST_ACCESS_SIZE];
	int fd[2];           /* a pipe, a file, ...: -1 unless prepared; closed by the engine */
	int ring, device;    /* io_uring; number of the zram device: -1 unless prepared */
	int error;           /* of an access made by another process */
	pid_t tid;           /* of a thread that waits to be used */
	char *second;        /* another page, where the accessor needs one */
	char directory[32];  /* a scratch directory, empty unless prepared */
	char stack[KST_ACCESS_STACK] __attribute__((aligned(16)));
};

typedef int kst_access_fn(struct kst_access *a); /* 0 or an errno */

struct kst_accessor {
	const char *name;
	kst_access_fn *prepare; /* before the page is protected; an errno: cannot be tried here. May be NULL. */
	kst_access_fn *run;     /* the access */
	size_t reads, writes;   /* bytes at the page's beginning that it must have read into `got`, written from `fill` */
};

/* Tables; each ends with a NULL name. */
extern const struct kst_accessor kst_copy_accessors[];    /* access_copy.c: system calls that copy, futex */
extern const struct kst_accessor kst_io_accessors[];      /* access_io.c: vmsplice, O_DIRECT, io_uring, AIO */
extern const struct kst_accessor kst_process_accessors[]; /* access_process.c: other processes, exec, exit, core dump */

int kst_access_pipe(struct kst_access *a);     /* an empty pipe in fd */
int kst_access_fed_pipe(struct kst_access *a); /* a pipe that holds `fill` */
int kst_access_drain(struct kst_access *a);    /* what the pipe holds goes into `got` */
int kst_access_result(long result);            /* -1: errno, a short count: EIO */

#endif
