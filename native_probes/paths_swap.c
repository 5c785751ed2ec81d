/* SPDX-License-Identifier: MIT */
/*
 * paths_swap.c - one access to each page that is in swap. Source: mm/memory.c (do_swap_page), mm/shmem.c.
 *
 * Swap is what is active, else, where instructions are counted, a zram device set up for this path alone and taken away
 * after it: other figures stay what they are without swap. Each page holds one word again and again, which zram keeps as
 * that word, so that the figure is the kernel's way to the page and not a decompression.
 */
#define _GNU_SOURCE
#include "paths.h"
#include "uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define DEVICE "/dev/zram0"
#define SWAP_BYTES (64UL << 20)
#define TRIES 16

/* The header of a swap area, version 1 (include/linux/swap.h, union swap_header). */
static int make_swap(void)
{
	char page[4096] = { 0 };
	uint32_t info[] = { 1, SWAP_BYTES / sizeof(page) - 1, 0 }; /* version, last page, bad pages */
	int fd = open(DEVICE, O_WRONLY | O_CLOEXEC), err;

	memcpy(page + 1024, info, sizeof(info));
	memcpy(page + sizeof(page) - 10, "SWAPSPACE2", 10);
	err = fd < 0 || write(fd, page, sizeof(page)) != sizeof(page) || fsync(fd) ? errno : 0;
	if (fd >= 0)
		close(fd);
	return err;
}

static json_t *open_swap(struct work *w)
{
	struct sysinfo info;
	char size[32];
	int err;

	if (!sysinfo(&info) && info.totalswap)
		return NULL;
	if (!w->loop.tsc)
		return kst_errno(EOPNOTSUPP, "no active swap");
	snprintf(size, sizeof(size), "%lu", SWAP_BYTES);
	err = kst_write_text("/sys/block/zram0/disksize", size);
	if (err)
		return kst_errno(EOPNOTSUPP, "no active swap, and no zram device to make it of");
	err = make_swap();
	if (!err && swapon(DEVICE, 0))
		err = errno;
	w->own_swap = true;
	return err ? kst_errno(err, "swapon " DEVICE) : NULL;
}

static void close_swap(struct work *w)
{
	if (!w->own_swap)
		return;
	swapoff(DEVICE);
	kst_write_text("/sys/block/zram0/reset", "1");
}

/* Every word of every page is the page's number. */
static void fill(const struct kst_mem *mem)
{
	for (uint64_t i = 0; i < mem->pages; i++)
		for (size_t at = 0; at < mem->page_size; at += sizeof(uint64_t))
			*(volatile uint64_t *)(mem->addr + i * mem->page_size + at) = i + 1;
}

static json_t *open_filled(struct work *w)
{
	json_t *reply = open_swap(w);

	if (!reply)
		fill(&w->loop.mem);
	return reply;
}

static bool all_out(struct work *w)
{
	unsigned char *resident = (unsigned char *)w->bytes;

	if (mincore(w->loop.mem.addr, w->loop.mem.len, resident))
		return false;
	return !memchr(resident, 1, w->loop.mem.len / 4096);
}

static int page_out(struct work *w)
{
	for (int i = 0; i < TRIES; i++) {
		if (madvise(w->loop.mem.addr, w->loop.mem.len, MADV_PAGEOUT))
			return errno;
		if (all_out(w))
			return 0;
	}
	return EBUSY;
}

const struct path kst_swap_paths[] = {
	{ .name = "swap-read", .open = open_filled, .before = page_out, .run = kst_path_read, .close = close_swap },
	{ .name = "swap-write", .open = open_filled, .before = page_out, .run = kst_path_write, .close = close_swap },
	{ .name = NULL },
};
