/* SPDX-License-Identifier: MIT */
/* nodes.c - NUMA nodes: where pages are, and moving them (move_pages(2)); and swap off and on again. */
#define _GNU_SOURCE
#include "subject.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOVED_MAX 65536
#define MOVE_ALL 4 /* MPOL_MF_MOVE_ALL, include/uapi/linux/mempolicy.h: pages that others map, too */

/* move_pages(2) over [addr, addr + len), a page each `page_size` bytes; without `node` it only asks. */
static json_t *op_move_pages(struct kst_subject *s, const json_t *args)
{
	bool ask = !json_object_get(args, "node");
	uint64_t addr, len, page_size, node = 0, count;
	json_t *reply = NULL, *where;
	void **pages = NULL;
	int *nodes = NULL, *status = NULL;
	long err = 0;

	(void)s;
	if (!kst_arg_u64(args, "addr", &addr, &reply) || !kst_arg_u64(args, "len", &len, &reply) ||
	    !kst_arg_range_or(args, "page_size", 4096, 4096, 1UL << 30, &page_size, &reply) ||
	    !kst_arg_range_or(args, "node", 0, 0, 1023, &node, &reply))
		return reply;
	count = len / page_size;
	if (!kst_check_range("pages", count, 1, MOVED_MAX, &reply))
		return reply;
	pages = calloc(count, sizeof(*pages));
	nodes = calloc(count, sizeof(*nodes));
	status = calloc(count, sizeof(*status));
	if (!pages || !nodes || !status)
		err = ENOMEM;
	for (uint64_t i = 0; !err && i < count; i++) {
		pages[i] = (void *)(uintptr_t)(addr + i * page_size);
		nodes[i] = (int)node;
	}
	if (!err && syscall(SYS_move_pages, 0, count, pages, ask ? NULL : nodes, status, ask ? 0 : MOVE_ALL) < 0)
		err = errno;
	where = json_array();
	for (uint64_t i = 0; !err && i < count; i++) /* a node, or a negative errno */
		json_array_append_new(where, json_integer(status[i]));
	free(pages);
	free(nodes);
	free(status);
	if (err) {
		json_decref(where);
		return kst_errno((int)err, "move_pages");
	}
	return kst_ok(json_pack("{s:o}", "nodes", where));
}

/* Everything swapped comes in (swapoff(2)), and swap is there again; the device is the first of /proc/swaps. */
static json_t *op_swap_cycle(struct kst_subject *s, const json_t *args)
{
	char device[256] = "";
	FILE *file = fopen("/proc/swaps", "re");

	(void)s;
	(void)args;
	if (!file)
		return kst_errno(errno, "/proc/swaps");
	if (fscanf(file, "%*[^\n] %255s", device) != 1)
		device[0] = '\0';
	fclose(file);
	if (!device[0])
		return kst_errno(ENODEV, "no active swap");
	if (swapoff(device))
		return kst_errno(errno, "swapoff");
	return swapon(device, 0) ? kst_errno(errno, "swapon") : kst_ok(NULL);
}

const struct kst_op kst_node_ops[] = {
	{ "move_pages", op_move_pages },
	{ "swap_cycle", op_swap_cycle },
	{ NULL, NULL },
};
