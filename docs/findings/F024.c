/* SPDX-License-Identifier: MIT */
/*
 * F024: UFFDIO_RWPROTECT of a huge page of shared memory returns 0 and protects nothing.
 *
 * gcc -Wall -Wextra -o F024 F024.c && ./F024    as root: it sets shmem_enabled to "advise" and back
 * Exits 1 on a kernel that does so, 0 on one that protects it, 4 where this cannot be tried.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HUGE (2ul << 20)
#define PAGE 4096ul
#define MARKER (1ull << 57)  /* pagemap: userfaultfd protection */
#define PRESENT (1ull << 63) /* pagemap */
#define SWITCH "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

/* Of <linux/userfaultfd.h> from 7.3 on. */
#define MODE_RWP (1ull << 3)
#define FEATURE_RWP (1ull << 17)
#define RWPROTECT _IOWR(UFFDIO, 0x09, struct uffdio_writeprotect)

static int cannot(const char *what)
{
	perror(what);
	return 4;
}

static void set(const char *word)
{
	int fd = open(SWITCH, O_WRONLY);

	if (fd >= 0 && write(fd, word, strlen(word)) < 0)
		perror(SWITCH);
	close(fd);
}

/* Whether the memory is mapped by a huge page: its VMA in smaps says so. */
static int is_huge(const char *memory)
{
	char line[256], start[32];
	unsigned long size = 0;
	FILE *smaps = fopen("/proc/self/smaps", "r");
	int here = 0;

	snprintf(start, sizeof(start), "%lx-", (unsigned long)(uintptr_t)memory);
	while (smaps && fgets(line, sizeof(line), smaps)) {
		if (!strncmp(line, start, strlen(start)))
			here = 1;
		if (here && sscanf(line, "ShmemPmdMapped: %lu", &size) == 1)
			break;
	}
	if (smaps)
		fclose(smaps);
	return size > 0;
}

int main(void)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_RWP};
	int file = memfd_create("F024", 0), pagemap = open("/proc/self/pagemap", O_RDONLY), left = 0, resident = 0;
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	char *space = mmap(NULL, 2 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *memory;
	struct uffdio_writeprotect rwp = {.mode = 1};
	struct uffdio_register reg = {.mode = MODE_RWP};
	uint64_t entries[HUGE / PAGE];

	if (file < 0 || pagemap < 0 || uffd < 0 || space == MAP_FAILED || ftruncate(file, HUGE))
		return cannot("memfd, pagemap, userfaultfd or mmap");
	memory = (char *)(((uintptr_t)space + HUGE - 1) & ~(HUGE - 1));
	if (mmap(memory, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
		return cannot("mmap");
	set("advise");
	madvise(memory, HUGE, MADV_HUGEPAGE);
	memset(memory, 1, HUGE);
	set("never");
	if (!is_huge(memory))
		return cannot("no huge page of shared memory");
	reg.range = rwp.range = (struct uffdio_range){(uintptr_t)memory, HUGE};
	if (ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg))
		return cannot("read-write protection by userfaultfd");
	if (ioctl(uffd, RWPROTECT, &rwp))
		return cannot("UFFDIO_RWPROTECT");
	if (pread(pagemap, entries, sizeof(entries), (uintptr_t)memory / PAGE * 8) != sizeof(entries))
		return cannot("pagemap");
	for (unsigned int i = 0; i < HUGE / PAGE; i++) {
		left += !!(entries[i] & MARKER);
		resident += !!(entries[i] & PRESENT);
	}
	printf("UFFDIO_RWPROTECT returned 0; of 512 resident pages %d are protected, %d are still mapped\n", left, resident);
	if (left == 512)
		return 0;
	/* Nobody serves faults: were the page protected, this would wait for ever. */
	alarm(5);
	memory[PAGE] = 2;
	puts("a write to one of them has gone by unseen");
	return 1;
}
