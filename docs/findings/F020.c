/* SPDX-License-Identifier: MIT */
/*
 * F020: a core dump lacks the pages that are protected in sync mode.
 *
 * gcc -Wall -Wextra -o F020 F020.c && ./F020
 * Exits 1 on a kernel that does so, 0 on one that does not, 4 where this cannot be tried.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define FEATURE_RWP (1ull << 17)
#define REGISTER_MODE_RWP (1ull << 3)
#define RWPROTECT _IOWR(UFFDIO, 0x09, struct uffdio_writeprotect) /* the same struct and mode bits */
#define WORD 0x0123456789abcdefull

static int cannot(const char *what)
{
	perror(what);
	return 4;
}

/* The child: one protected page, and a core dump. */
static int dump(uint64_t *page)
{
	struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_RWP};
	struct uffdio_register reg = {.range = {(uintptr_t)page, 4096}, .mode = REGISTER_MODE_RWP};
	struct uffdio_writeprotect protect = {.range = reg.range, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
	const struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	*page = WORD;
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) || ioctl(uffd, UFFDIO_REGISTER, &reg) ||
	    ioctl(uffd, RWPROTECT, &protect))
		return cannot("protection by userfaultfd (RWP)");
	if (setrlimit(RLIMIT_CORE, &all))
		return cannot("setrlimit");
	abort();
}

/* The word at `address` in a core file; 0 where the file has a hole. */
static int from_core(int core, uint64_t address, uint64_t *word)
{
	Elf64_Ehdr elf;
	Elf64_Phdr part;

	if (pread(core, &elf, sizeof(elf), 0) != sizeof(elf) || memcmp(elf.e_ident, ELFMAG, SELFMAG))
		return -1;
	for (int i = 0; i < elf.e_phnum; i++) {
		if (pread(core, &part, sizeof(part), (off_t)(elf.e_phoff + i * sizeof(part))) != sizeof(part))
			return -1;
		if (part.p_type == PT_LOAD && address - part.p_vaddr < part.p_filesz)
			return pread(core, word, 8, (off_t)(part.p_offset + address - part.p_vaddr)) == 8 ? 0 : -1;
	}
	return -1;
}

int main(void)
{
	uint64_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), word = 0;
	char directory[] = "/tmp/F020-XXXXXX", name[32];
	int status, core;
	pid_t pid;

	if (page == MAP_FAILED || !mkdtemp(directory) || chdir(directory))
		return cannot("a page and a directory");
	pid = fork();
	if (!pid)
		_exit(dump(page));
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return cannot("a child");
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	snprintf(name, sizeof(name), "core.%d", (int)pid);
	core = open("core", O_RDONLY);
	if (core < 0)
		core = open(name, O_RDONLY);
	if (core < 0 || from_core(core, (uintptr_t)page, &word))
		return cannot("a core file in the current directory (see /proc/sys/kernel/core_pattern)");
	unlink("core");
	unlink(name);
	rmdir(directory);
	if (word == WORD)
		return 0;
	printf("the page held %#llx, its core dump has %#llx\n", (unsigned long long)WORD, (unsigned long long)word);
	return 1;
}
