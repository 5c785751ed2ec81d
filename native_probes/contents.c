/* SPDX-License-Identifier: MIT */
/*
 * contents.c - the bytes of pages, read past the page tables: no access that a userfaultfd could stop or record.
 *
 * /proc/kcore has the machine's memory as an ELF core, a segment for each run of it, whose p_paddr is its physical
 * address (elf_kcore in fs/proc/kcore.c: of what is no memory it is -1); /proc/self/pagemap has the frame of a page.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "subject.h"

#define SMALL 4096u
#define PAGES_MAX 65536
#define SEGMENTS_MAX 256

/* Physical memory as the file shows it; the same in every process of this boot. */
static struct {
	int fd;
	size_t count;
	Elf64_Phdr segments[SEGMENTS_MAX];
} core = {.fd = -1};

static bool read_at(int fd, void *buffer, size_t len, uint64_t offset)
{
	return pread(fd, buffer, len, (off_t)offset) == (ssize_t)len;
}

/* False: there is no such file, or it is not ours to read, or it is not what it should be. */
static bool open_core(void)
{
	Elf64_Ehdr head;

	if (core.fd >= 0)
		return true;
	core.fd = open("/proc/kcore", O_RDONLY | O_CLOEXEC);
	if (core.fd < 0)
		return false;
	if (read_at(core.fd, &head, sizeof(head), 0) && head.e_phentsize == sizeof(core.segments[0]) &&
	    head.e_phnum <= SEGMENTS_MAX &&
	    read_at(core.fd, core.segments, head.e_phnum * sizeof(core.segments[0]), head.e_phoff)) {
		core.count = head.e_phnum;
		return true;
	}
	close(core.fd);
	core.fd = -1;
	return false;
}

/* One small page at this physical address. */
static bool read_frame(uint64_t at, void *buffer)
{
	for (size_t i = 0; i < core.count; i++) {
		const Elf64_Phdr *p = &core.segments[i];

		if (p->p_type == PT_LOAD && p->p_paddr != UINT64_MAX && at >= p->p_paddr &&
		    at + SMALL <= p->p_paddr + p->p_memsz)
			return read_at(core.fd, buffer, SMALL, p->p_offset + (at - p->p_paddr));
	}
	return false;
}

static json_t *op_contents(struct kst_subject *s, const json_t *args)
{
	static char page[SMALL] __attribute__((aligned(SMALL)));
	uint64_t addr, pages, stride, frame;
	json_t *reply = NULL, *sums;
	bool readable;

	if (!kst_arg_range(args, "addr", 0, (1ull << 47) - 1, &addr, &reply) ||
	    !kst_arg_range(args, "pages", 1, PAGES_MAX, &pages, &reply) ||
	    !kst_arg_range_or(args, "stride", SMALL, SMALL, 1ull << 30, &stride, &reply))
		return reply;
	sums = json_array();
	readable = open_core();
	for (uint64_t i = 0; i < pages && readable; i++) {
		char hex[17] = "0";

		frame = kst_frame_at(s, addr + i * stride);
		if (frame && read_frame(frame * SMALL, page))
			snprintf(hex, sizeof(hex), "%016llx",
				 (unsigned long long)kst_sum_page((uint64_t)(uintptr_t)page, SMALL));
		json_array_append_new(sums, json_string(hex));
	}
	return kst_ok(json_pack("{s:o}", "sums", sums));
}

const struct kst_op kst_contents_ops[] = {{"contents", op_contents}, {NULL, NULL}};
