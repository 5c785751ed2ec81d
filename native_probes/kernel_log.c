/* SPDX-License-Identifier: MIT */
/*
 * kernel_log.c - what the kernel said since the last look, and whether it calls itself broken.
 *
 * /dev/kmsg gives one record per read(2), oldest first, and EPIPE once records
 * were overwritten before they were read (Documentation/ABI/testing/dev-kmsg).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

#define MAX_LINES 2000
#define MAX_RECORD 8192

/* One reader for the process: a second agent in it would see only what is new to both. */
static int kmsg = -1;

/* "6,339,5140900,-;text": the text without continuation lines; escaped by the kernel already. */
static json_t *text_of(char *record)
{
	char *text = strchr(record, ';');
	char *end;

	text = text ? text + 1 : record;
	end = strchr(text, '\n');
	if (end)
		*end = '\0';
	return json_string(text); /* NULL, which json_array_append_new() refuses, when it is not UTF-8 */
}

static json_int_t taint(void)
{
	unsigned long long value = 0;
	FILE *file = fopen("/proc/sys/kernel/tainted", "re");

	if (!file)
		return -1;
	if (fscanf(file, "%llu", &value) != 1)
		value = 0;
	fclose(file);
	return (json_int_t)value;
}

json_t *kst_kernel_log(void)
{
	json_t *lines = json_array();
	json_int_t lost = 0;
	char record[MAX_RECORD];

	if (kmsg < 0) {
		kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		if (kmsg < 0) {
			int err = errno;

			json_decref(lines);
			return kst_errno(err, "/dev/kmsg");
		}
		lseek(kmsg, 0, SEEK_END);
	}
	for (;;) {
		ssize_t got = read(kmsg, record, sizeof(record) - 1);

		if (got < 0 && errno == EPIPE) {
			lost++;
			continue;
		}
		if (got <= 0)
			break;
		record[got] = '\0';
		if (json_array_size(lines) < MAX_LINES)
			json_array_append_new(lines, text_of(record));
		else
			lost++;
	}
	return kst_ok(json_pack("{s:o, s:I, s:I}", "lines", lines, "lost", lost, "taint", taint()));
}
