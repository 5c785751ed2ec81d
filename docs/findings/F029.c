/* SPDX-License-Identifier: MIT */
/*
 * F029: MADV_UNMERGEABLE takes pages that are protected by RWP for accessed (async mode), and leaves them and all
 * behind them merged (sync mode).
 *
 * gcc -Wall -Wextra -o F029 F029.c && ./F029    as root: it switches KSM on and off, and reads /proc/kpageflags
 * Exits 1 on a kernel that does so, 0 on one that does not, 4 where this cannot be tried.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 4
#define KSM "/sys/kernel/mm/ksm/"
#define MARKER (1ull << 57)  /* pagemap: userfaultfd protection */
#define FRAME ((1ull << 55) - 1)
#define KPF_KSM (1ull << 21)

/* Of <linux/userfaultfd.h> from 7.3 on. */
#define MODE_RWP (1ull << 3)
#define FEATURE_RWP (1ull << 17)
#define FEATURE_RWP_ASYNC (1ull << 18)
#define RWPROTECT _IOWR(UFFDIO, 0x09, struct uffdio_writeprotect)

static int cannot(const char *what)
{
	perror(what);
	return 4;
}

static int set(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY), failed = fd < 0 || write(fd, value, strlen(value)) < 0;

	close(fd);
	return failed;
}

static long get(const char *path)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		perror(path);
	close(fd);
	return atol(text);
}

/* Of each page its entry in pagemap; how many of them are merged, or -1. */
static int look(const char *memory, uint64_t entries[PAGES])
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY), flags = open("/proc/kpageflags", O_RDONLY), merged = 0;
	uint64_t word;

	if (pread(pagemap, entries, PAGES * 8, (uintptr_t)memory / PAGE * 8) != PAGES * 8)
		merged = -1;
	for (int i = 0; merged >= 0 && i < PAGES; i++) {
		if (!(entries[i] & FRAME) || pread(flags, &word, 8, (entries[i] & FRAME) * 8) != 8)
			merged = -1;
		else
			merged += (word & KPF_KSM) != 0;
	}
	close(pagemap);
	close(flags);
	return merged;
}

/* 1, 0 or 4 as the program itself. Nobody accesses the memory from the protection on. */
static int try_mode(uint64_t features, const char *name)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	char *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register reg = {.range = {(uintptr_t)memory, PAGES * PAGE}, .mode = MODE_RWP};
	/* The first two pages, of what is merged by then. */
	struct uffdio_writeprotect rwp = {.range = {(uintptr_t)memory, 2 * PAGE}, .mode = 1};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY), merged;
	uint64_t entries[PAGES] = {0};
	time_t end;
	long scans;

	if (memory == MAP_FAILED || uffd < 0)
		return cannot("mmap or userfaultfd");
	memset(memory, 7, PAGES * PAGE);
	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg))
		return cannot("RWP");
	if (madvise(memory, PAGES * PAGE, MADV_MERGEABLE) || set(KSM "run", "1"))
		return cannot("KSM");
	scans = get(KSM "full_scans");
	for (end = time(NULL) + 30; get(KSM "full_scans") < scans + 4 && time(NULL) < end;)
		;
	set(KSM "run", "0");
	merged = look(memory, entries);
	if (merged != PAGES) {
		fprintf(stderr, "%d of %d pages are merged\n", merged, PAGES);
		return 4;
	}
	if (ioctl(uffd, RWPROTECT, &rwp))
		return cannot("UFFDIO_RWPROTECT");
	if (madvise(memory, PAGES * PAGE, MADV_UNMERGEABLE))
		return cannot("MADV_UNMERGEABLE");
	merged = look(memory, entries);
	printf("%s: after MADV_UNMERGEABLE %d of %d pages are merged; page 0 %s protected, page 1 %s\n", name, merged, PAGES,
	       entries[0] & MARKER ? "is" : "is no more", entries[1] & MARKER ? "is" : "is no more");
	close(uffd);
	return merged != 0 || !(entries[0] & entries[1] & MARKER);
}

int main(void)
{
	int sync, async;

	if (set(KSM "sleep_millisecs", "0") || set(KSM "pages_to_scan", "100000"))
		return cannot("KSM");
	sync = try_mode(FEATURE_RWP, "sync");
	async = try_mode(FEATURE_RWP | FEATURE_RWP_ASYNC, "async");
	return sync == 4 || async == 4 ? 4 : sync | async;
}
