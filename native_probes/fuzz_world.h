/* SPDX-License-Identifier: MIT */
/*
 * fuzz_world.h - put before every file of the probe when it is built for the
 * fuzzer: what would reach outside of the process goes to fuzz_request.c
 * instead, so that random requests map, fork and protect nothing.
 */
#define close fuzz_close
#define fallocate fuzz_fallocate
#define fcntl fuzz_fcntl
#define fork fuzz_fork
#define fstatfs fuzz_fstatfs
#define ftruncate fuzz_ftruncate
#define ioctl fuzz_ioctl
#define madvise fuzz_madvise
#define memfd_create fuzz_memfd_create
#define mmap fuzz_mmap
#define mprotect fuzz_mprotect
#define mremap fuzz_mremap
#define munmap fuzz_munmap
#define open fuzz_open
#define poll fuzz_poll
#define pread fuzz_pread
#define pthread_create fuzz_pthread_create
#define pthread_join fuzz_pthread_join
#define pwrite fuzz_pwrite
#define read fuzz_read
#define sched_setaffinity fuzz_sched_setaffinity
#define sem_wait fuzz_sem_wait
#define sendmsg fuzz_sendmsg
#define sigaction(number, new, old) fuzz_sigaction(number, new, old)
#define socketpair fuzz_socketpair
#define syscall fuzz_syscall
#define clock_gettime fuzz_clock_gettime
#define write fuzz_write
