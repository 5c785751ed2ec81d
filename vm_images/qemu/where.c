/* SPDX-License-Identifier: MIT */
/*
 * where.c - a QEMU plugin: in which functions the instructions between two clock readings of a user program are.
 *
 *   -plugin file=where.so,functions=FILE,out=FILE
 *
 * "functions" has the addresses at which the kernel's functions begin, 64 bits each, ascending; the last is where the
 * last one ends. At each RDTSC in user space the plugin appends to "out", 64 bits each: how many places follow, then each
 * place and how many instructions began there since the last RDTSC. Place 0 is user space, 1 what is in no function,
 * 2 the first function, ...; nothing is written above 32 MiB, or if all were in user space and as many as before. An
 * instruction that faults and is retried began twice.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * What is used of QEMU's plugin interface (docs/devel/tcg-plugins.rst), of which INTERFACE is the version: 1, or 3, since
 * 2 has no inline counters but those of a vCPU, and 3 another qemu_plugin_insn_data(). Debian has no package of its header.
 */
enum { INLINE_ADD_U64 = 0, CB_NO_REGS = 0 };
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated_fn)(uint64_t id, struct qemu_plugin_tb *tb);
typedef void (*executed_fn)(unsigned int vcpu, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, translated_fn cb);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, executed_fn cb, int flags, void *data);
#if INTERFACE == 1
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn, int op, void *counter, uint64_t add);
#else
struct qemu_plugin_scoreboard;
struct counter {
	struct qemu_plugin_scoreboard *score;
	size_t offset;
};
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *to, size_t size);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t size);
void *qemu_plugin_scoreboard_find(struct qemu_plugin_scoreboard *score, unsigned int vcpu);
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct qemu_plugin_insn *insn, int op, struct counter counter,
							 uint64_t add);
static struct qemu_plugin_scoreboard *score; /* of the one vCPU: what `counted` points to */
#endif

__attribute__((visibility("default"))) int qemu_plugin_version = INTERFACE;

enum { USER, ELSEWHERE, FIRST };
enum { MOST = 32 << 20 };
struct entry {
	uint64_t place, count;
};
static uint64_t *starts, *counted, *before;
static uint64_t blocks_before; /* of the kernel's that began: else who spins on the clock is looked at for ever */
static uint64_t spun; /* instructions between the last two readings, if all were in user space */
static size_t functions, places; /* one counter of each place, and behind them that of the blocks */
static struct entry *entries;
static int out = -1;

static size_t place_of(uint64_t address)
{
	size_t low = 0, high = functions; /* starts[low] <= address < starts[high] */

	if (address >> 63 == 0)
		return USER;
	if (address < starts[low] || address >= starts[high])
		return ELSEWHERE;
	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (address < starts[middle])
			high = middle;
		else
			low = middle;
	}
	return FIRST + low;
}

static void put(const void *data, size_t size)
{
	for (ssize_t n; size; data = (const char *)data + n, size -= n)
		if ((n = write(out, data, size)) <= 0) {
			perror("where: write");
			return;
		}
}

static void clock_is_read(unsigned int vcpu, void *data)
{
	uint64_t n = 0;

	(void)vcpu;
	(void)data;
#if INTERFACE > 1
	counted = qemu_plugin_scoreboard_find(score, vcpu);
#endif
	if (counted[places] == blocks_before) {
		const uint64_t all[] = {1, USER, counted[USER] - before[USER]};

		before[USER] = counted[USER];
		if (all[2] != spun && lseek(out, 0, SEEK_END) <= MOST)
			put(all, sizeof(all));
		spun = all[2];
		return;
	}
	blocks_before = counted[places];
	spun = 0;
	for (size_t i = 0; i < places; i++)
		if (counted[i] != before[i]) {
			entries[n++] = (struct entry){i, counted[i] - before[i]};
			before[i] = counted[i];
		}
	if (lseek(out, 0, SEEK_END) > MOST)
		return;
	put(&n, sizeof(n));
	put(entries, n * sizeof(*entries));
}

static void count(struct qemu_plugin_insn *insn, size_t counter)
{
#if INTERFACE == 1
	qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD_U64, &counted[counter], 1);
#else
	const struct counter it = { score, counter * sizeof(*counted) };

	qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, INLINE_ADD_U64, it, 1);
#endif
}

static int reads_clock(const struct qemu_plugin_insn *insn)
{
	static const char rdtsc[2] = "\x0f\x31";

	if (qemu_plugin_insn_size(insn) != sizeof(rdtsc))
		return 0;
#if INTERFACE == 1
	return !memcmp(qemu_plugin_insn_data(insn), rdtsc, sizeof(rdtsc));
#else
	char bytes[sizeof(rdtsc)];

	return qemu_plugin_insn_data(insn, bytes, sizeof(bytes)) == sizeof(rdtsc) && !memcmp(bytes, rdtsc, sizeof(rdtsc));
#endif
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	(void)id;
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		size_t place = place_of(qemu_plugin_insn_vaddr(insn));

		if (place == USER && reads_clock(insn))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, clock_is_read, CB_NO_REGS, NULL);
		if (place != USER && i == 0)
			count(insn, places);
		count(insn, place);
	}
}

static int read_functions(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat about;
	size_t addresses;

	if (fd < 0 || fstat(fd, &about))
		return 0;
	addresses = about.st_size / sizeof(*starts);
	functions = addresses ? addresses - 1 : 0;
	places = functions + FIRST;
	starts = calloc(addresses, sizeof(*starts));
#if INTERFACE == 1
	counted = calloc(places + 1, sizeof(*counted));
	if (!counted)
		return 0;
#else
	score = qemu_plugin_scoreboard_new((places + 1) * sizeof(*counted));
#endif
	before = calloc(places, sizeof(*before));
	entries = calloc(places, sizeof(*entries));
	return functions && starts && before && entries &&
	       read(fd, starts, addresses * sizeof(*starts)) == (ssize_t)(addresses * sizeof(*starts)) && !close(fd);
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	int known = 0;

	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4))
			out = open(argv[i] + 4, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		else if (!strncmp(argv[i], "functions=", 10))
			known = read_functions(argv[i] + 10);
	}
	if (out < 0 || !known) {
		fprintf(stderr, "where: needs out=FILE and functions=FILE\n");
		return 1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
