/* SPDX-License-Identifier: MIT */
/*
 * split_plugin.c - a QEMU plugin: where the instructions between two clock readings of a user program were.
 *
 *   -plugin file=split_plugin.so,out=FILE,entry=FROM-TO,noinstr=FROM-TO    hexadecimal addresses
 *
 * At each RDTSC in user space it appends three 64-bit numbers to FILE: how many instructions began since the last one in
 * user space, in the kernel's entry code (both ranges) and elsewhere in the kernel; nothing if all were in user space.
 * One that faults and is retried began twice. bench_split.py makes a table of it.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What is used of QEMU's plugin interface, version 1 (docs/devel/tcg-plugins.rst); Debian has no package of its header. */
enum { INLINE_ADD_U64 = 0, CB_NO_REGS = 0 };
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated_fn)(uint64_t id, struct qemu_plugin_tb *tb);
typedef void (*executed_fn)(unsigned int vcpu, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, translated_fn cb);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t i);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, executed_fn cb, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn, int op, void *counter, uint64_t add);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { USER, ENTRY, KERNEL, PLACES };
static uint64_t counted[PLACES], before[PLACES];
static struct { uint64_t from, to; } ranges[2];
static int out = -1;

static int place_of(uint64_t address)
{
	if (address >> 63 == 0)
		return USER;
	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++)
		if (address >= ranges[i].from && address < ranges[i].to)
			return ENTRY;
	return KERNEL;
}

static void clock_is_read(unsigned int vcpu, void *data)
{
	uint64_t since[PLACES];

	(void)vcpu;
	(void)data;
	for (int i = 0; i < PLACES; i++) {
		since[i] = counted[i] - before[i];
		before[i] = counted[i];
	}
	if ((since[ENTRY] || since[KERNEL]) && write(out, since, sizeof(since)) != sizeof(since))
		perror("split_plugin: write");
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	(void)id;
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		int place = place_of(qemu_plugin_insn_vaddr(insn));

		if (place == USER && qemu_plugin_insn_size(insn) == 2 && !memcmp(qemu_plugin_insn_data(insn), "\x0f\x31", 2))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, clock_is_read, CB_NO_REGS, NULL);
		qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD_U64, &counted[place], 1);
	}
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4))
			out = open(argv[i] + 4, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		else if (sscanf(argv[i], "entry=%lx-%lx", &ranges[0].from, &ranges[0].to) != 2 &&
			 sscanf(argv[i], "noinstr=%lx-%lx", &ranges[1].from, &ranges[1].to) != 2)
			return 1;
	}
	if (out < 0 || !ranges[0].to || !ranges[1].to)
		return 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
