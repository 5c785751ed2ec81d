/* SPDX-License-Identifier: MIT */
/*
 * knobs.c - settings and counters of the whole machine that make the kernel's own threads come by: compaction, KSM,
 * khugepaged, NUMA balancing. A test that turns one needs a guest of its own (capability "guest").
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kst.h"

#define TEXT_MAX 65535
#define WAIT_MAX_MS 60000
#define LOOK_US 1000
#define KSM "/sys/kernel/mm/ksm/"
#define KHUGEPAGED "/sys/kernel/mm/transparent_hugepage/khugepaged/"
#define NUMA "/sys/kernel/debug/sched/numa_balancing/"

static const struct knob {
	const char *name, *path;
	int mode; /* W_OK: may be written, too */
} knobs[] = {
	{"compact_memory", "/proc/sys/vm/compact_memory", W_OK},
	{"pcp_high_fraction", "/proc/sys/vm/percpu_pagelist_high_fraction", W_OK},
	{"vmstat", "/proc/vmstat", R_OK},
	{"clear_refs", "/proc/self/clear_refs", W_OK}, /* of this process alone */
	{"ksm_run", KSM "run", W_OK},
	{"ksm_sleep", KSM "sleep_millisecs", W_OK},
	{"ksm_pages_to_scan", KSM "pages_to_scan", W_OK},
	{"ksm_full_scans", KSM "full_scans", R_OK},
	{"khugepaged_sleep", KHUGEPAGED "scan_sleep_millisecs", W_OK},
	{"khugepaged_pages_to_scan", KHUGEPAGED "pages_to_scan", W_OK},
	{"khugepaged_full_scans", KHUGEPAGED "full_scans", R_OK},
	{"split_huge_pages", "/sys/kernel/debug/split_huge_pages", W_OK},
	{"zswap_enabled", "/sys/module/zswap/parameters/enabled", W_OK},
	{"numa_balancing", "/proc/sys/kernel/numa_balancing", W_OK},
	{"numa_scan_delay", NUMA "scan_delay_ms", W_OK},
	{"numa_scan_period_min", NUMA "scan_period_min_ms", W_OK},
	{"numa_scan_period_max", NUMA "scan_period_max_ms", W_OK},
};

#define KNOBS (sizeof(knobs) / sizeof(knobs[0]))

json_t *kst_knobs(void)
{
	json_t *names = json_array();

	for (size_t i = 0; i < KNOBS; i++)
		if (!access(knobs[i].path, knobs[i].mode))
			json_array_append_new(names, json_string(knobs[i].name));
	return names;
}

static const struct knob *knob_arg(const json_t *args, int mode, json_t **reply)
{
	const char *name;

	if (!kst_arg_str(args, "name", &name, reply))
		return NULL;
	for (size_t i = 0; i < KNOBS; i++)
		if (!strcmp(knobs[i].name, name) && (mode == R_OK || knobs[i].mode == W_OK))
			return &knobs[i];
	*reply = kst_error("argument name: no knob that can be %s is called %s", mode == W_OK ? "set" : "read", name);
	return NULL;
}

/* 0 or an errno; `text` gets at most TEXT_MAX bytes and a NUL. */
static int read_knob(const struct knob *knob, char *text)
{
	int fd = open(knob->path, O_RDONLY | O_CLOEXEC), err = 0;
	size_t got = 0;
	ssize_t n = 1;

	if (fd < 0)
		return errno;
	while (n > 0 && got < TEXT_MAX) {
		n = read(fd, text + got, TEXT_MAX - got);
		got += n > 0 ? (size_t)n : 0;
	}
	if (n < 0)
		err = errno;
	text[got] = 0;
	close(fd);
	return err;
}

/* The number on the line that begins with `key` and a space, or of the whole text where there is no key; else -1. */
static long long number_of(const char *text, const char *key)
{
	size_t len = strlen(key);

	if (!len)
		return atoll(text);
	for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
		if (!strncmp(line, key, len) && line[len] == ' ')
			return atoll(line + len);
	return -1;
}

static json_t *op_knob_set(struct kst_subject *s, const json_t *args)
{
	const struct knob *knob;
	json_t *reply = NULL;
	const char *value;
	int fd, err = 0;

	(void)s;
	knob = knob_arg(args, W_OK, &reply);
	if (!knob || !kst_arg_str(args, "value", &value, &reply))
		return reply;
	fd = open(knob->path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return kst_errno(errno, knob->path);
	if (write(fd, value, strlen(value)) < 0)
		err = errno;
	close(fd);
	return err ? kst_errno(err, knob->path) : kst_ok(NULL);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Waits until the number is `at_least` that; answers with what it is then, or at the bound. No file tells of a change. */
static json_t *op_knob(struct kst_subject *s, const json_t *args)
{
	const struct timespec pause = {0, LOOK_US * 1000};
	uint64_t at_least, timeout_ms, end;
	const struct knob *knob;
	json_t *reply = NULL;
	const char *key;
	long long value;
	char *text;
	int err;

	(void)s;
	knob = knob_arg(args, R_OK, &reply);
	if (!knob || !kst_arg_str_or(args, "key", "", &key, &reply) ||
	    !kst_arg_u64_or(args, "at_least", 0, &at_least, &reply) ||
	    !kst_arg_range_or(args, "timeout_ms", 0, 0, WAIT_MAX_MS, &timeout_ms, &reply))
		return reply;
	text = malloc(TEXT_MAX + 1);
	if (!text)
		abort();
	end = now_ms() + timeout_ms;
	for (;;) {
		err = read_knob(knob, text);
		value = err ? -1 : number_of(text, key);
		if (err || value < 0 || (uint64_t)value >= at_least || now_ms() >= end)
			break;
		nanosleep(&pause, NULL);
	}
	free(text);
	if (err)
		return kst_errno(err, knob->path);
	if (value < 0)
		return kst_error("argument key: %s has no number called %s", knob->name, key);
	return kst_ok(json_pack("{s:I}", "value", (json_int_t)value));
}

const struct kst_op kst_knob_ops[] = {{"knob", op_knob}, {"knob_set", op_knob_set}, {NULL, NULL}};
