/* SPDX-License-Identifier: MIT */
/*
 * fake_stopping.c - a probe of a guest that counts instructions (native_probes/stop.c), which misbehaves on request.
 * A request that contains the word does the deed; every other one is answered with itself.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define STOP_AT 0x6b7374000000UL

static struct {
	uint64_t asked, len;
	char line[1 << 20];
} *const box = (void *)(STOP_AT + 4096);

static void stop_at(char *there)
{
	((void (*)(void))there)();
	__asm__ volatile("" ::: "memory");
}

int main(int argc, char **argv)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_FIXED_NOREPLACE;
	char *room = mmap((void *)STOP_AT, 4096 + sizeof(*box), PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0);
	FILE *sysrq;

	if (argc != 2 || strcmp(argv[1], "stopping"))
		return 0; /* no crowd */
	if (room == MAP_FAILED)
		return 1;
	memcpy(room, "\x90\xc3", 2);
	for (;;) {
		stop_at(room);
		if (strstr(box->line, "panic") && (sysrq = fopen("/proc/sysrq-trigger", "w"))) {
			fputs("c", sysrq);
			fclose(sysrq);
		}
		while (strstr(box->line, "hang"))
			;
		if (strstr(box->line, "leave"))
			return 3;
		if (strstr(box->line, "endless"))
			box->len = UINT64_MAX;
	}
}
