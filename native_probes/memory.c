/* SPDX-License-Identifier: MIT */
/* memory.c - contents of memory, and the system calls that rearrange it. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "subject.h"

#define LISTED_MAX 64
#define SUMS_MAX 65536
#define PAGES_MAX (1u << 22)
#define ADDR_MAX ((1ull << 47) - 1)

static void *at(uint64_t addr)
{
	return (void *)(uintptr_t)addr;
}

struct pages {
	uint64_t addr, count, page_size, seed, first;
};

/* `first_page`: the number of the page at `addr` in the pattern; 0 unless told. */
static bool pages_arg(const json_t *args, struct pages *p, bool seeded, json_t **reply)
{
	return kst_arg_range(args, "addr", 0, ADDR_MAX, &p->addr, reply) &&
	       kst_arg_range(args, "pages", 0, PAGES_MAX, &p->count, reply) &&
	       kst_arg_range_or(args, "page_size", 4096, 8, 1ull << 30, &p->page_size, reply) &&
	       (!seeded || (kst_arg_u64(args, "seed", &p->seed, reply) &&
			    kst_arg_u64_or(args, "first_page", 0, &p->first, reply)));
}

static json_t *op_stamp(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL;
	struct pages p;

	(void)s;
	if (!pages_arg(args, &p, true, &reply))
		return reply;
	for (uint64_t i = 0; i < p.count; i++)
		kst_stamp_page(p.addr + i * p.page_size, p.page_size, p.seed, p.first + i);
	return kst_ok(NULL);
}

static json_t *op_verify(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL, *bad;
	uint64_t count = 0;
	struct pages p;

	(void)s;
	if (!pages_arg(args, &p, true, &reply))
		return reply;
	bad = json_array();
	for (uint64_t i = 0; i < p.count; i++)
		if (!kst_verify_page(p.addr + i * p.page_size, p.page_size, p.seed, p.first + i) &&
		    count++ < LISTED_MAX)
			json_array_append_new(bad, json_integer((json_int_t)(p.first + i)));
	return kst_ok(json_pack("{s:o, s:I}", "bad", bad, "bad_count", (json_int_t)count));
}

static json_t *op_checksum(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL, *sums;
	struct pages p;
	char hex[17];

	(void)s;
	if (!pages_arg(args, &p, false, &reply) || !kst_check_range("pages", p.count, 0, SUMS_MAX, &reply))
		return reply;
	sums = json_array();
	for (uint64_t i = 0; i < p.count; i++) {
		uint64_t sum = kst_sum_page(p.addr + i * p.page_size, p.page_size);

		snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)sum);
		json_array_append_new(sums, json_string(hex));
	}
	return kst_ok(json_pack("{s:o}", "sums", sums));
}

static json_t *op_peek(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL;
	uint64_t addr;

	(void)s;
	if (!kst_arg_range(args, "addr", 0, ADDR_MAX, &addr, &reply))
		return reply;
	/* JSON integers are signed; a value with bit 63 set comes back negative. */
	return kst_ok(json_pack("{s:I}", "value", (json_int_t)kst_load(addr)));
}

static json_t *op_poke(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL;
	uint64_t addr, value;

	(void)s;
	if (!kst_arg_range(args, "addr", 0, ADDR_MAX, &addr, &reply) ||
	    !kst_arg_word_or(args, "value", 0, &value, &reply))
		return reply;
	if (!json_object_get(args, "value"))
		return kst_error("argument value is missing");
	kst_store(addr, value);
	return kst_ok(NULL);
}

static bool span_arg(const json_t *args, uint64_t *addr, uint64_t *len, json_t **reply)
{
	return kst_arg_u64(args, "addr", addr, reply) && kst_arg_u64(args, "len", len, reply);
}

/* The system calls below may raise userfaultfd events, which somebody must read for them to return. */
static json_t *drained(struct kst_drain *drain, int failed, const char *what)
{
	int err = errno;

	kst_drain_end(drain);
	return failed ? kst_errno(err, what) : kst_ok(NULL);
}

#define ADVICE(name) {#name, MADV_##name}

static const struct {
	const char *name;
	int advice;
} advices[] = {
	ADVICE(NORMAL),	      ADVICE(RANDOM),	      ADVICE(SEQUENTIAL),    ADVICE(WILLNEED),	ADVICE(DONTNEED),
	ADVICE(FREE),	      ADVICE(REMOVE),	      ADVICE(DONTFORK),	     ADVICE(DOFORK),	ADVICE(MERGEABLE),
	ADVICE(UNMERGEABLE),  ADVICE(HUGEPAGE),	      ADVICE(NOHUGEPAGE),    ADVICE(DONTDUMP),	ADVICE(DODUMP),
	ADVICE(WIPEONFORK),   ADVICE(KEEPONFORK),     ADVICE(COLD),	     ADVICE(PAGEOUT),	ADVICE(POPULATE_READ),
	ADVICE(POPULATE_WRITE), ADVICE(DONTNEED_LOCKED), ADVICE(COLLAPSE),   ADVICE(HWPOISON),	ADVICE(SOFT_OFFLINE),
	ADVICE(GUARD_INSTALL), ADVICE(GUARD_REMOVE),
};

static json_t *op_madvise(struct kst_subject *s, const json_t *args)
{
	struct kst_drain *drain;
	uint64_t addr, len;
	json_t *reply = NULL;
	const char *name;
	int failed;

	if (!span_arg(args, &addr, &len, &reply) || !kst_arg_str(args, "advice", &name, &reply))
		return reply;
	for (size_t i = 0; i < sizeof(advices) / sizeof(advices[0]); i++) {
		if (strcmp(advices[i].name, name))
			continue;
		drain = kst_drain_begin(s);
		failed = madvise(at(addr), len, advices[i].advice);
		return drained(drain, failed, "madvise");
	}
	return kst_error("argument advice: no advice is called %s", name);
}

static json_t *op_mprotect(struct kst_subject *s, const json_t *args)
{
	uint64_t addr, len, prot;
	json_t *reply = NULL;

	(void)s;
	if (!span_arg(args, &addr, &len, &reply) || !kst_arg_range(args, "prot", 0, INT32_MAX, &prot, &reply))
		return reply;
	return mprotect(at(addr), len, (int)prot) ? kst_errno(errno, "mprotect") : kst_ok(NULL);
}

static json_t *op_munmap(struct kst_subject *s, const json_t *args)
{
	struct kst_drain *drain;
	uint64_t addr, len;
	json_t *reply = NULL;

	if (!span_arg(args, &addr, &len, &reply))
		return reply;
	drain = kst_drain_begin(s);
	return drained(drain, munmap(at(addr), len), "munmap");
}

static json_t *op_mremap(struct kst_subject *s, const json_t *args)
{
	uint64_t addr, len, new_len, flags, new_addr;
	struct kst_drain *drain;
	json_t *reply = NULL;
	void *moved;
	int err;

	if (!span_arg(args, &addr, &len, &reply) || !kst_arg_u64(args, "new_len", &new_len, &reply) ||
	    !kst_arg_range_or(args, "flags", MREMAP_MAYMOVE, 0, INT32_MAX, &flags, &reply) ||
	    !kst_arg_u64_or(args, "new_addr", 0, &new_addr, &reply))
		return reply;
	drain = kst_drain_begin(s);
	moved = mremap(at(addr), len, new_len, (int)flags, at(new_addr));
	err = errno;
	kst_drain_end(drain);
	if (moved == MAP_FAILED)
		return kst_errno(err, "mremap");
	return kst_ok(json_pack("{s:I}", "addr", (json_int_t)(uintptr_t)moved));
}

/* Not the C library's calls: a sanitizer makes no-ops of them. With `onfault` pages are locked as they come in, and none is touched. */
static json_t *op_mlock(struct kst_subject *s, const json_t *args)
{
	uint64_t addr, len;
	json_t *reply = NULL;
	bool onfault;

	(void)s;
	if (!span_arg(args, &addr, &len, &reply) || !kst_arg_bool_or(args, "onfault", false, &onfault, &reply))
		return reply;
	return syscall(SYS_mlock2, addr, len, onfault ? MLOCK_ONFAULT : 0) ? kst_errno(errno, "mlock2") : kst_ok(NULL);
}

static json_t *op_munlock(struct kst_subject *s, const json_t *args)
{
	uint64_t addr, len;
	json_t *reply = NULL;

	(void)s;
	if (!span_arg(args, &addr, &len, &reply))
		return reply;
	return syscall(SYS_munlock, addr, len) ? kst_errno(errno, "munlock") : kst_ok(NULL);
}

const struct kst_op kst_memory_ops[] = {
	{"stamp", op_stamp},	 {"verify", op_verify},	    {"checksum", op_checksum}, {"peek", op_peek},     {"poke", op_poke},
	{"madvise", op_madvise}, {"mprotect", op_mprotect}, {"munmap", op_munmap},     {"mremap", op_mremap}, {"mlock", op_mlock},
	{"munlock", op_munlock}, {NULL, NULL},
};
