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
#define SMALL 4096
#define OF_HUGE (8 * SMALL) /* more, and a timer tick would be among them */

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

/* Each page; a huge one comes in by small ones, of which every eighth is touched. */
static int touch_each(const struct work *w, bool write)
{
	struct kst_mem mem = w->loop.mem;

	if (mem.thp)
		mem.page_size = OF_HUGE;
	kst_mem_touch(&mem, write);
	return 0;
}

static int run_read(struct work *w) { return touch_each(w, false); }
static int run_write(struct work *w) { return touch_each(w, true); }

static bool all_out(struct work *w)
{
	unsigned char *resident = (unsigned char *)w->bytes;

	if (mincore(w->loop.mem.addr, w->loop.mem.len, resident))
		return false;
	return !memchr(resident, 1, w->loop.mem.len / SMALL);
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
	{ .name = "swap-read", .open = open_swap, .contents = fill, .before = page_out, .run = run_read, .close = close_swap },
	{ .name = "swap-write", .open = open_swap, .contents = fill, .before = page_out, .run = run_write, .close = close_swap },
	{ .name = NULL },
};
