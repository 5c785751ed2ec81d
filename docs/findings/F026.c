/* SPDX-License-Identifier: MIT */
/*
 * F026: KSM merges protected pages, and their protection by userfaultfd is gone, RWP and WP alike.
 *
 * gcc -Wall -Wextra -o F026 F026.c && ./F026    as root: it switches KSM on and off
 * Exits 1 on a kernel that does so, 0 on one where merged pages stay protected or are not merged, 4 where this cannot
 * be tried.
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
#define MARKER (1ull << 57) /* pagemap: userfaultfd protection */

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

int main(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
	char *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register reg = {.range = {(uintptr_t)memory, PAGES * PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
	/* Two pages are protected, two are not: these show that KSM has been here. */
	struct uffdio_writeprotect wp = {.range = {(uintptr_t)memory, 2 * PAGE}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entries[PAGES] = {0};
	time_t end;
	long scans;

	if (memory == MAP_FAILED || uffd < 0 || pagemap < 0)
		return cannot("mmap, userfaultfd or pagemap");
	memset(memory, 7, PAGES * PAGE);
	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg) || ioctl(uffd, UFFDIO_WRITEPROTECT, &wp))
		return cannot("write protection by userfaultfd");
	if (madvise(memory, PAGES * PAGE, MADV_MERGEABLE))
		return cannot("MADV_MERGEABLE");
	if (set(KSM "sleep_millisecs", "0") || set(KSM "pages_to_scan", "100000") || set(KSM "run", "1"))
		return cannot("KSM cannot be switched on");
	scans = get(KSM "full_scans");
	for (end = time(NULL) + 30; get(KSM "full_scans") < scans + 4 && time(NULL) < end;)
		;
	set(KSM "run", "0");
	if (get(KSM "pages_sharing") < 1)
		return cannot("KSM merged nothing");
	if (pread(pagemap, entries, sizeof(entries), (uintptr_t)memory / PAGE * 8) != sizeof(entries))
		return cannot("pagemap");
	for (int i = 0; i < 2; i++)
		printf("page %d, protected: %s\n", i, entries[i] & MARKER ? "still is" : "is no more");
	return entries[0] & entries[1] & MARKER ? 0 : 1;
}
