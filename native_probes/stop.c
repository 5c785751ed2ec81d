/* SPDX-License-Identifier: MIT */
/*
 * stop.c - the probe's channel on a machine that stands still while the host writes to it (machines/stopped.py).
 *
 * Whatever reaches a guest from outside does so at another instruction each time, and from there on two boots of one
 * kernel are different. So nothing does: where a reply is ready, the agent runs into a breakpoint that QEMU's debugger
 * has set at KST_STOP_AT. The machine stops just there, the reply is read from the agent's memory, the next request is
 * written to it, and the machine goes on as if nothing had happened.
 */
#define _GNU_SOURCE
#include "stop.h"
#include "kst.h"

#include <string.h>
#include <sys/mman.h>

#define PAGE 4096
/* The host has the same addresses. No program has code there, so that nobody else runs into the breakpoint. */
#define KST_STOP_AT 0x6b7374000000UL
#define KST_BOX_AT (KST_STOP_AT + PAGE)

struct box {
	uint64_t asked; /* the host writes 1 */
	uint64_t len;
	char line[KST_REPLY_MAX + 1];
};

static struct box *const box = (struct box *)KST_BOX_AT;

static bool map(void)
{
	static const unsigned char code[] = { 0x90, 0xc3 }; /* nop, at which the machine stops; ret */
	int fixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_FIXED_NOREPLACE;
	size_t len = PAGE + sizeof(struct box);

	if (mmap((void *)KST_STOP_AT, len, PROT_READ | PROT_WRITE, fixed, -1, 0) != (void *)KST_STOP_AT)
		return false;
	memcpy((void *)KST_STOP_AT, code, sizeof(code));
	/* The debugger reads what is there and brings nothing in; a child, whose fork is measured, needs none of it. */
	return !mlock((void *)KST_STOP_AT, len) && !madvise((void *)KST_STOP_AT, len, MADV_DONTFORK) &&
	       !mprotect((void *)KST_STOP_AT, PAGE, PROT_READ | PROT_EXEC);
}

const char *kst_stop_exchange(const char *reply, size_t *len)
{
	static bool mapped;

	if (!mapped && !(mapped = map()))
		return NULL;
	box->asked = 0;
	box->len = reply ? strlen(reply) : 0;
	if (reply)
		memcpy(box->line, reply, box->len);
	((void (*)(void))KST_STOP_AT)();
	__asm__ volatile("" ::: "memory"); /* the host has written to the box */
	*len = box->len;
	return box->asked ? box->line : NULL;
}
