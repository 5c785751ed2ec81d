/* SPDX-License-Identifier: MIT */
/* access_process.c - a page accessed by another process, and when a process begins, ends or dumps core. */
#define _GNU_SOURCE
#include "access.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Has another process make the access, which dies with the thread that waits for it. */
static int elsewhere(struct kst_access *a, kst_access_fn *fn)
{
	pid_t pid;

	a->error = EPROTO; /* unless it says otherwise */
	pid = fork();
	if (pid < 0)
		return errno;
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		a->error = fn(a);
		_exit(0);
	}
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return a->error;
}

static int readv_parent(struct kst_access *a)
{
	struct iovec here = { a->got, KST_ACCESS_SIZE }, there = { a->page, KST_ACCESS_SIZE };

	return kst_access_result(process_vm_readv(getppid(), &here, 1, &there, 1, 0));
}

static int writev_parent(struct kst_access *a)
{
	struct iovec here = { a->fill, KST_ACCESS_SIZE }, there = { a->page, KST_ACCESS_SIZE };

	return kst_access_result(process_vm_writev(getppid(), &here, 1, &there, 1, 0));
}

static int run_process_vm_readv(struct kst_access *a)
{
	return elsewhere(a, readv_parent);
}

static int run_process_vm_writev(struct kst_access *a)
{
	return elsewhere(a, writev_parent);
}

static int proc_mem(struct kst_access *a, bool writes)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC), err;

	if (fd < 0)
		return errno;
	err = kst_access_result(writes ? pwrite(fd, a->fill, KST_ACCESS_SIZE, (off_t)(uintptr_t)a->page) :
					 pread(fd, a->got, KST_ACCESS_SIZE, (off_t)(uintptr_t)a->page));
	close(fd);
	return err;
}

static int run_proc_mem_read(struct kst_access *a)
{
	return proc_mem(a, false);
}

static int run_proc_mem_write(struct kst_access *a)
{
	return proc_mem(a, true);
}

/* A thread that has nothing in common with the C library but its memory: it ends when the pipe is closed. */
static int waiting_thread(struct kst_access *a, int (*fn)(void *), pid_t *clear)
{
	const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
			  (clear ? CLONE_CHILD_CLEARTID : 0);
	int err = kst_access_pipe(a);

	if (err)
		return err;
	a->tid = clone(fn, a->stack + sizeof(a->stack), flags, a, NULL, NULL, clear);
	return a->tid < 0 ? errno : 0;
}

static int wait_for_end(void *arg)
{
	struct kst_access *a = arg;
	char byte;

	return (int)read(a->fd[0], &byte, 1);
}

/* Lets the thread end, and waits until it is gone. */
static int end_thread(struct kst_access *a)
{
	const struct timespec pause = { 0, 100000 };

	if (write(a->fd[1], "", 1) != 1)
		return errno;
	while (!syscall(SYS_tgkill, getpid(), a->tid, 0))
		nanosleep(&pause, NULL);
	return 0;
}

static int trace_parent(struct kst_access *a, bool writes)
{
	long word;

	if (ptrace(PTRACE_SEIZE, a->tid, NULL, NULL) || ptrace(PTRACE_INTERRUPT, a->tid, NULL, NULL) ||
	    waitpid(a->tid, NULL, __WALL) != a->tid)
		return errno;
	if (writes) {
		memcpy(&word, a->fill, sizeof(word));
		return ptrace(PTRACE_POKEDATA, a->tid, a->page, word) ? errno : 0;
	}
	errno = 0;
	word = ptrace(PTRACE_PEEKDATA, a->tid, a->page, NULL);
	memcpy(a->got, &word, sizeof(word));
	return errno;
}

static int peek_parent(struct kst_access *a)
{
	return trace_parent(a, false);
}

static int poke_parent(struct kst_access *a)
{
	return trace_parent(a, true);
}

static int prepare_tracee(struct kst_access *a)
{
	return waiting_thread(a, wait_for_end, NULL);
}

static int run_ptrace_peek(struct kst_access *a)
{
	int err = elsewhere(a, peek_parent);

	end_thread(a);
	return err;
}

static int run_ptrace_poke(struct kst_access *a)
{
	int err = elsewhere(a, poke_parent);

	end_thread(a);
	return err;
}

static int prepare_clear_child_tid(struct kst_access *a)
{
	memset(a->fill, 0, sizeof(pid_t));
	return waiting_thread(a, wait_for_end, (pid_t *)a->page);
}

/* The page begins with the lock word of the only entry of a robust list; its owner is the thread. */
static int own_robust_lock(void *arg)
{
	struct kst_access *a = arg;
	struct robust_list *entry = (struct robust_list *)a->got; /* where it stays, unlike on this stack */
	struct robust_list_head *head = (struct robust_list_head *)(entry + 1);

	entry->next = &head->list;
	*head = (struct robust_list_head){ .list = { entry }, .futex_offset = a->page - a->got };
	syscall(SYS_set_robust_list, head, sizeof(*head));
	return wait_for_end(arg);
}

static int prepare_robust_list(struct kst_access *a)
{
	const uint32_t died = FUTEX_OWNER_DIED;
	int err = waiting_thread(a, own_robust_lock, NULL);

	memcpy(a->fill, &died, sizeof(died));
	memcpy(a->page, &a->tid, sizeof(a->tid));
	return err;
}

/* The page as an argument of execve(), which a child sharing our memory calls; it is stopped before it runs. */
static int run_execve(struct kst_access *a)
{
	char *arguments[] = { a->page, NULL }, *environment[] = { NULL }, path[64];
	pid_t pid = vfork();
	int fd, err;

	if (pid < 0)
		return errno;
	if (!pid) {
		if (!ptrace(PTRACE_TRACEME, 0, NULL, NULL))
			execve("/proc/self/exe", arguments, environment);
		_exit(1);
	}
	if (waitpid(pid, &err, 0) != pid || !WIFSTOPPED(err))
		return EPROTO;
	snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	err = fd < 0 ? errno : kst_access_result(read(fd, a->got, KST_ACCESS_SIZE));
	close(fd);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return err;
}

static int prepare_core(struct kst_access *a)
{
	char first = 0;
	int fd = open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno;
	if (read(fd, &first, 1) != 1 || strchr("|/@", first)) /* somebody else's */
		first = 0;
	close(fd);
	if (!first)
		return EOPNOTSUPP;
	strcpy(a->directory, "/tmp/kst-core-XXXXXX");
	return mkdtemp(a->directory) ? 0 : errno;
}

static int die(void *arg)
{
	struct kst_access *a = arg;
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!chdir(a->directory) && !setrlimit(RLIMIT_CORE, &all))
		kill((pid_t)syscall(SYS_getpid), SIGABRT);
	return 1;
}

/* Finds the page in a core file. */
static int from_core(struct kst_access *a, int fd)
{
	Elf64_Ehdr elf;
	Elf64_Phdr part;

	if (pread(fd, &elf, sizeof(elf), 0) != sizeof(elf) || memcmp(elf.e_ident, ELFMAG, SELFMAG))
		return ENOEXEC;
	for (unsigned int i = 0; i < elf.e_phnum; i++) {
		off_t at = (off_t)(elf.e_phoff + i * sizeof(part));
		uint64_t offset;

		if (pread(fd, &part, sizeof(part), at) != sizeof(part))
			return EIO;
		offset = (uintptr_t)a->page - part.p_vaddr;
		if (part.p_type == PT_LOAD && offset < part.p_filesz)
			return kst_access_result(pread(fd, a->got, KST_ACCESS_SIZE, (off_t)(part.p_offset + offset)));
	}
	return ENODATA;
}

/* A child that shares our memory, but is no thread of ours, dumps it. */
static int run_core_dump(struct kst_access *a)
{
	pid_t pid = clone(die, a->stack + sizeof(a->stack), CLONE_VM | SIGCHLD, a);
	struct dirent *entry;
	int status = 0, err = ENOENT;
	DIR *directory;

	if (pid < 0)
		return errno;
	if (waitpid(pid, &status, 0) != pid || !WCOREDUMP(status))
		return EPROTO;
	directory = opendir(a->directory);
	if (!directory)
		return errno;
	while ((entry = readdir(directory))) {
		int fd = *entry->d_name == '.' ? -1 : openat(dirfd(directory), entry->d_name, O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			continue;
		err = from_core(a, fd);
		close(fd);
		unlinkat(dirfd(directory), entry->d_name, 0);
	}
	closedir(directory);
	return err;
}

const struct kst_accessor kst_process_accessors[] = {
	{ "process_vm_readv", NULL, run_process_vm_readv, KST_ACCESS_SIZE, 0 },
	{ "process_vm_writev", NULL, run_process_vm_writev, 0, KST_ACCESS_SIZE },
	{ "proc_mem_read", NULL, run_proc_mem_read, KST_ACCESS_SIZE, 0 },
	{ "proc_mem_write", NULL, run_proc_mem_write, 0, KST_ACCESS_SIZE },
	{ "ptrace_peek", prepare_tracee, run_ptrace_peek, sizeof(long), 0 },
	{ "ptrace_poke", prepare_tracee, run_ptrace_poke, 0, sizeof(long) },
	{ "execve", NULL, run_execve, KST_ACCESS_SIZE, 0 },
	{ "clear_child_tid", prepare_clear_child_tid, end_thread, 0, sizeof(pid_t) },
	{ "robust_list", prepare_robust_list, end_thread, 0, sizeof(uint32_t) },
	{ "core_dump", prepare_core, run_core_dump, KST_ACCESS_SIZE, 0 },
	{ NULL, NULL, NULL, 0, 0 },
};
