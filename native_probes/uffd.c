/* SPDX-License-Identifier: MIT */
/* uffd.c - the ioctls of a userfaultfd, one operation each. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "subject.h"

#define SEEDED_MAX (64ull << 20)

size_t kst_uffd_add(struct kst_subject *s, int fd, uint64_t features)
{
	struct kst_uffd *uffd = calloc(1, sizeof(*uffd));

	if (!uffd)
		abort();
	uffd->fd = fd;
	uffd->features = features;
	return kst_table_add(&s->uffds, uffd);
}

void kst_uffd_free(struct kst_uffd *uffd)
{
	close(uffd->fd);
	free(uffd);
}

static json_t *op_uffd_open(struct kst_subject *s, const json_t *args)
{
	bool user_mode_only;
	json_t *reply = NULL;
	uint64_t flags;
	int fd;

	if (!kst_arg_range_or(args, "flags", 0, 0, INT32_MAX, &flags, &reply) ||
	    !kst_arg_bool_or(args, "user_mode_only", false, &user_mode_only, &reply))
		return reply;
	flags |= O_CLOEXEC | O_NONBLOCK | (user_mode_only ? UFFD_USER_MODE_ONLY : 0);
	fd = (int)syscall(SYS_userfaultfd, (int)flags);
	if (fd < 0)
		return kst_errno(errno, "userfaultfd");
	return kst_ok(json_pack("{s:I}", "uffd", (json_int_t)kst_uffd_add(s, fd, 0)));
}

static json_t *op_uffd_close(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL;
	struct kst_uffd *uffd = kst_table_arg(&s->uffds, args, "uffd", &reply);

	if (!uffd)
		return reply;
	kst_table_forget(&s->uffds, uffd);
	kst_uffd_free(uffd);
	return kst_ok(NULL);
}

static json_t *op_uffd_api(struct kst_subject *s, const json_t *args)
{
	struct uffdio_api api = {0};
	uint64_t version, features;
	json_t *reply = NULL, *left;
	struct kst_uffd *uffd = kst_table_arg_or_last(&s->uffds, args, "uffd", &reply);

	if (!uffd || !kst_arg_u64(args, "features", &features, &reply) ||
	    !kst_arg_u64_or(args, "api", UFFD_API, &version, &reply))
		return reply;
	api.api = version;
	api.features = features;
	if (ioctl(uffd->fd, UFFDIO_API, &api))
		reply = kst_errno(errno, "UFFDIO_API");
	else
		uffd->features = features;
	left = json_pack("{s:I, s:I}", "features", (json_int_t)api.features, "ioctls", KST_IOCTLS(api.ioctls));
	if (!reply)
		return kst_ok(left);
	json_object_update(reply, left);
	json_decref(left);
	return reply;
}

static bool range_arg(struct kst_subject *s, const json_t *args, struct kst_uffd **uffd, struct uffdio_range *range,
		      json_t **reply)
{
	uint64_t addr, len;

	*uffd = kst_table_arg_or_last(&s->uffds, args, "uffd", reply);
	if (!*uffd || !kst_arg_u64(args, "addr", &addr, reply) || !kst_arg_u64(args, "len", &len, reply))
		return false;
	*range = (struct uffdio_range){.start = addr, .len = len};
	return true;
}

static json_t *op_register(struct kst_subject *s, const json_t *args)
{
	struct uffdio_register reg = {0};
	json_t *reply = NULL;
	struct kst_uffd *uffd;
	uint64_t mode;

	if (!range_arg(s, args, &uffd, &reg.range, &reply) || !kst_arg_u64(args, "mode", &mode, &reply))
		return reply;
	reg.mode = mode;
	if (ioctl(uffd->fd, UFFDIO_REGISTER, &reg))
		return kst_errno(errno, "UFFDIO_REGISTER");
	return kst_ok(json_pack("{s:I}", "ioctls", KST_IOCTLS(reg.ioctls)));
}

static json_t *range_call(struct kst_subject *s, const json_t *args, unsigned long request, const char *what)
{
	struct uffdio_range range;
	json_t *reply = NULL;
	struct kst_uffd *uffd;

	if (!range_arg(s, args, &uffd, &range, &reply))
		return reply;
	return ioctl(uffd->fd, request, &range) ? kst_errno(errno, what) : kst_ok(NULL);
}

static json_t *op_unregister(struct kst_subject *s, const json_t *args)
{
	return range_call(s, args, UFFDIO_UNREGISTER, "UFFDIO_UNREGISTER");
}

static json_t *op_wake(struct kst_subject *s, const json_t *args)
{
	return range_call(s, args, UFFDIO_WAKE, "UFFDIO_WAKE");
}

/* Controls corrupt and corrupt_protect. */
static void corrupt(const struct kst_subject *s, const char *control, uint64_t addr)
{
	if (kst_control(s, control))
		kst_flip_bit(addr);
}

/* Control lose_wake: all DONTWAKE flags but those of the two protecting calls are bit 0. */
static uint64_t resolving_mode(const struct kst_subject *s, uint64_t mode, uint64_t dontwake)
{
	return kst_control(s, "lose_wake") ? mode | dontwake : mode;
}

/* Controls protect_one_more and protect_one_less. One more only where the region has one: a guard page lies beyond. */
static void bend_end(const struct kst_subject *s, struct uffdio_range *range)
{
	uint64_t page_size = kst_page_size_at(s, range->start);

	if (kst_control(s, "protect_one_more") && kst_region_at(s, range->start + range->len))
		range->len += page_size;
	if (kst_control(s, "protect_one_less") && range->len >= page_size)
		range->len -= page_size;
}

/* Control partial: a refused call has got as far as its first page. */
static void protect_first_page(const struct kst_subject *s, const struct kst_uffd *uffd, unsigned long request,
			       struct uffdio_rwprotect prot)
{
	uint64_t page_size = kst_page_size_at(s, prot.range.start);

	if (!kst_control(s, "partial"))
		return;
	prot.range = (struct uffdio_range){.start = prot.range.start & ~(page_size - 1), .len = page_size};
	prot.mode = UFFDIO_RWPROTECT_MODE_RWP;
	ioctl(uffd->fd, request, &prot);
}

/* writeprotect and rwprotect: same struct, same two mode bits. */
static json_t *protect(struct kst_subject *s, const json_t *args, unsigned long request, const char *what)
{
	struct uffdio_rwprotect prot = {0};
	json_t *reply = NULL;
	struct kst_uffd *uffd;
	uint64_t mode;

	_Static_assert(sizeof(struct uffdio_rwprotect) == sizeof(struct uffdio_writeprotect) &&
			       UFFDIO_RWPROTECT_MODE_RWP == UFFDIO_WRITEPROTECT_MODE_WP &&
			       UFFDIO_RWPROTECT_MODE_DONTWAKE == UFFDIO_WRITEPROTECT_MODE_DONTWAKE,
		       "one function serves both");
	if (!range_arg(s, args, &uffd, &prot.range, &reply) || !kst_arg_u64(args, "mode", &mode, &reply))
		return reply;
	prot.mode = mode;
	if (mode & UFFDIO_RWPROTECT_MODE_RWP) {
		bend_end(s, &prot.range);
		if (kst_control(s, "skip_protect") || (!prot.range.len && kst_control(s, "protect_one_less")))
			return kst_ok(NULL);
		corrupt(s, "corrupt_protect", prot.range.start + prot.range.len - 1); /* before: later it would trap */
	} else {
		prot.mode = resolving_mode(s, mode, UFFDIO_RWPROTECT_MODE_DONTWAKE);
	}
	if (ioctl(uffd->fd, request, &prot)) {
		int err = errno;

		protect_first_page(s, uffd, request, prot);
		return kst_errno(err, what);
	}
	if (!(mode & UFFDIO_RWPROTECT_MODE_RWP))
		corrupt(s, "corrupt", prot.range.start);
	return kst_ok(NULL);
}

static json_t *op_writeprotect(struct kst_subject *s, const json_t *args)
{
	return protect(s, args, UFFDIO_WRITEPROTECT, "UFFDIO_WRITEPROTECT");
}

static json_t *op_rwprotect(struct kst_subject *s, const json_t *args)
{
	return protect(s, args, UFFDIO_RWPROTECT, "UFFDIO_RWPROTECT");
}

static json_t *op_set_mode(struct kst_subject *s, const json_t *args)
{
	struct uffdio_set_mode set;
	uint64_t enable, disable;
	json_t *reply = NULL;
	struct kst_uffd *uffd = kst_table_arg(&s->uffds, args, "uffd", &reply);

	if (!uffd || !kst_arg_u64_or(args, "enable", 0, &enable, &reply) ||
	    !kst_arg_u64_or(args, "disable", 0, &disable, &reply))
		return reply;
	set = (struct uffdio_set_mode){.enable = enable, .disable = disable};
	return ioctl(uffd->fd, UFFDIO_SET_MODE, &set) ? kst_errno(errno, "UFFDIO_SET_MODE") : kst_ok(NULL);
}

/*
 * The reply of a call whose struct ends in a count of bytes: that count under
 * `key`; beside an errno too, because EAGAIN may come after part of the work.
 */
static json_t *counted(struct kst_subject *s, int failed, const char *what, const char *key, int64_t bytes,
		       uint64_t addr)
{
	json_t *reply = failed ? kst_errno(errno, what) : NULL;

	if (!failed)
		corrupt(s, "corrupt", addr);
	if (!reply)
		return kst_ok(json_pack("{s:I}", key, (json_int_t)bytes));
	json_object_set_new(reply, key, json_integer(bytes));
	return reply;
}

static void *seeded_pages(uint64_t len, uint64_t page_size, uint64_t seed, uint64_t first)
{
	void *pages = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (uint64_t i = 0; pages != MAP_FAILED && i < len / page_size; i++)
		kst_stamp_page((uint64_t)(uintptr_t)pages + i * page_size, page_size, seed, first + i);
	return pages;
}

static json_t *op_copy(struct kst_subject *s, const json_t *args)
{
	uint64_t dst, src = 0, len, mode, seed = 0, first, page_size;
	bool seeded = json_object_get(args, "seed");
	struct uffdio_copy copy;
	json_t *reply = NULL;
	void *scratch = NULL;
	int failed;
	struct kst_uffd *uffd = kst_table_arg(&s->uffds, args, "uffd", &reply);

	if (!uffd || !kst_arg_u64(args, "dst", &dst, &reply) || !kst_arg_u64(args, "len", &len, &reply) ||
	    !kst_arg_u64_or(args, "mode", 0, &mode, &reply) ||
	    !(seeded ? kst_arg_u64(args, "seed", &seed, &reply) : kst_arg_u64(args, "src", &src, &reply)) ||
	    !kst_arg_u64_or(args, "first_page", 0, &first, &reply) ||
	    !kst_arg_range_or(args, "page_size", kst_page_size_at(s, dst), 8, SEEDED_MAX, &page_size, &reply))
		return reply;
	if (seeded) {
		if (!kst_check_range("len", len, 1, SEEDED_MAX, &reply))
			return reply;
		scratch = seeded_pages(len, page_size, seed, first);
		if (scratch == MAP_FAILED)
			return kst_errno(errno, "mmap of the scratch pages");
		src = (uint64_t)(uintptr_t)scratch;
	}
	copy = (struct uffdio_copy){
		.dst = dst, .src = src, .len = len, .mode = resolving_mode(s, mode, UFFDIO_COPY_MODE_DONTWAKE)};
	failed = ioctl(uffd->fd, UFFDIO_COPY, &copy);
	reply = counted(s, failed, "UFFDIO_COPY", "copied", copy.copy, dst);
	if (scratch)
		munmap(scratch, len);
	return reply;
}

static json_t *op_zeropage(struct kst_subject *s, const json_t *args)
{
	struct uffdio_zeropage zero = {0};
	json_t *reply = NULL;
	struct kst_uffd *uffd;
	uint64_t mode;
	int failed;

	if (!range_arg(s, args, &uffd, &zero.range, &reply) || !kst_arg_u64_or(args, "mode", 0, &mode, &reply))
		return reply;
	zero.mode = resolving_mode(s, mode, UFFDIO_ZEROPAGE_MODE_DONTWAKE);
	failed = ioctl(uffd->fd, UFFDIO_ZEROPAGE, &zero);
	return counted(s, failed, "UFFDIO_ZEROPAGE", "zeropage", zero.zeropage, zero.range.start);
}

static json_t *op_continue(struct kst_subject *s, const json_t *args)
{
	struct uffdio_continue cont = {0};
	json_t *reply = NULL;
	struct kst_uffd *uffd;
	uint64_t mode;
	int failed;

	if (!range_arg(s, args, &uffd, &cont.range, &reply) || !kst_arg_u64_or(args, "mode", 0, &mode, &reply))
		return reply;
	cont.mode = resolving_mode(s, mode, UFFDIO_CONTINUE_MODE_DONTWAKE);
	failed = ioctl(uffd->fd, UFFDIO_CONTINUE, &cont);
	return counted(s, failed, "UFFDIO_CONTINUE", "mapped", cont.mapped, cont.range.start);
}

static json_t *op_poison(struct kst_subject *s, const json_t *args)
{
	struct uffdio_poison poison = {0};
	json_t *reply = NULL;
	struct kst_uffd *uffd;
	uint64_t mode;
	int failed;

	if (!range_arg(s, args, &uffd, &poison.range, &reply) || !kst_arg_u64_or(args, "mode", 0, &mode, &reply))
		return reply;
	poison.mode = resolving_mode(s, mode, UFFDIO_POISON_MODE_DONTWAKE);
	failed = ioctl(uffd->fd, UFFDIO_POISON, &poison);
	return counted(s, failed, "UFFDIO_POISON", "updated", poison.updated, poison.range.start);
}

static json_t *op_move(struct kst_subject *s, const json_t *args)
{
	struct uffdio_move move;
	uint64_t dst, src, len, mode;
	int failed;
	json_t *reply = NULL;
	struct kst_uffd *uffd = kst_table_arg(&s->uffds, args, "uffd", &reply);

	if (!uffd || !kst_arg_u64(args, "dst", &dst, &reply) || !kst_arg_u64(args, "src", &src, &reply) ||
	    !kst_arg_u64(args, "len", &len, &reply) || !kst_arg_u64_or(args, "mode", 0, &mode, &reply))
		return reply;
	move = (struct uffdio_move){
		.dst = dst, .src = src, .len = len, .mode = resolving_mode(s, mode, UFFDIO_MOVE_MODE_DONTWAKE)};
	failed = ioctl(uffd->fd, UFFDIO_MOVE, &move);
	return counted(s, failed, "UFFDIO_MOVE", "moved", move.move, dst);
}

const struct kst_op kst_uffd_ops[] = {
	{"uffd_open", op_uffd_open}, {"uffd_api", op_uffd_api},	    {"uffd_close", op_uffd_close},
	{"register", op_register},   {"unregister", op_unregister}, {"wake", op_wake},
	{"writeprotect", op_writeprotect}, {"rwprotect", op_rwprotect}, {"set_mode", op_set_mode},
	{"copy", op_copy},	     {"zeropage", op_zeropage},	    {"continue", op_continue},
	{"poison", op_poison},	     {"move", op_move},		    {NULL, NULL},
};
