/* SPDX-License-Identifier: MIT */
/* control.c - negative controls: lies on demand, so that each claim can be seen to fail. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "subject.h"

static const char *const names[] = {
	"skip_protect",	 "protect_one_more", "protect_one_less", "flip_write_flag", "wrong_address", "lose_wake",
	"touch_neighbour", "corrupt",	     "corrupt_protect",	 "corrupt_evicted", "duplicate_event", "hide_accessed",
	"drop_write",	 "break_log",	     "drop_in_child",
	"swallow_errno",	 "partial",	     "wrong_mask",	 "invert_marker",   "wrong_category", "stale_tables",
	"slow_resolve",	 "hide_flags",	     "spoil_contents",	 "spoil_trap",
};

#define NAMES (sizeof(names) / sizeof(names[0]))

static size_t find(const char *name)
{
	size_t i = 0;

	while (i < NAMES && strcmp(names[i], name))
		i++;
	return i;
}

bool kst_control(const struct kst_subject *s, const char *name)
{
	return s->controls && (s->controls >> find(name) & 1);
}

/* A success of any operation: each takes out of it what it knows. */
static json_t *success(void)
{
	return kst_ok(json_pack("{s:i, s:i, s:i, s:[]}", "features", 0, "ioctls", 0, "walk_end", 0, "regions"));
}

static void flip_first_bit(json_t *result, const char *name)
{
	json_t *mask = json_object_get(result, name);

	if (json_is_integer(mask))
		json_integer_set(mask, json_integer_value(mask) ^ 1);
}

void kst_flip_bit(uint64_t addr)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	char byte;

	if (fd < 0)
		return;
	if (pread(fd, &byte, 1, (off_t)addr) == 1) {
		byte ^= 1;
		if (pwrite(fd, &byte, 1, (off_t)addr) != 1)
			(void)errno;
	}
	close(fd);
}

/* The first page with a marker; 0: there is none. */
static uint64_t first_marked(struct kst_subject *s, uint64_t *page_size)
{
	for (size_t i = 0; i < s->regions.count; i++) {
		const struct kst_region *region = s->regions.items[i];

		for (uint64_t at = 0; region && at < region->len; at += region->page_size) {
			*page_size = region->page_size;
			if (kst_marked_at(s, region->addr + at))
				return region->addr + at;
		}
	}
	return 0;
}

/* Whoever has the page protects it, or lets it go and wakes nobody. */
static void protect(const struct kst_subject *s, uint64_t addr, uint64_t len, bool on)
{
	struct uffdio_rwprotect prot = {.range = {addr, len}};

	prot.mode = on ? UFFDIO_RWPROTECT_MODE_RWP : UFFDIO_RWPROTECT_MODE_DONTWAKE; /* the same bits for WP */
	for (size_t i = 0; i < s->uffds.count; i++) {
		const struct kst_uffd *uffd = s->uffds.items[i];

		if (uffd && ioctl(uffd->fd, UFFDIO_RWPROTECT, &prot))
			ioctl(uffd->fd, UFFDIO_WRITEPROTECT, &prot);
	}
}

/* Controls spoil_contents and spoil_trap: what a refused call changes, of a page that is protected, and stays so. */
static void spoil(struct kst_subject *s)
{
	uint64_t page_size, page;

	if (!kst_control(s, "spoil_contents") && (!kst_control(s, "spoil_trap") || s->untrapped))
		return;
	page = first_marked(s, &page_size);
	if (!page)
		return;
	protect(s, page, page_size, false);
	if (kst_control(s, "spoil_trap")) {
		s->untrapped = page; /* pagemap tells of a marker still */
		s->untrapped_len = page_size;
		return;
	}
	kst_flip_bit(page + s->spoilt++ % page_size); /* another byte each time: nothing is put right again */
	protect(s, page, page_size, true);
}

json_t *kst_lie(struct kst_subject *s, json_t *reply)
{
	json_t *result;

	if (s->controls && json_object_get(reply, "errno"))
		spoil(s);
	if (kst_control(s, "swallow_errno") && json_object_get(reply, "errno")) {
		json_decref(reply);
		return success();
	}
	result = json_object_get(reply, "result");
	if (kst_control(s, "wrong_mask")) {
		flip_first_bit(result, "features");
		flip_first_bit(result, "ioctls");
	}
	return reply;
}

static json_t *break_log(void)
{
	static const char text[] = "<4>WARNING: kselftests-py control\n";
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	int err = 0;

	if (fd < 0)
		return kst_errno(errno, "/dev/kmsg");
	if (write(fd, text, sizeof(text) - 1) < 0)
		err = errno;
	close(fd);
	return err ? kst_errno(err, "/dev/kmsg") : kst_ok(NULL);
}

static json_t *op_control(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL;
	const char *name;
	size_t i;

	if (!kst_arg_str(args, "name", &name, &reply))
		return reply;
	i = find(name);
	if (i == NAMES)
		return kst_error("no control is called %s", name);
	s->controls |= 1u << i;
	return strcmp(name, "break_log") ? kst_ok(NULL) : break_log();
}

const struct kst_op kst_control_ops[] = {{"control", op_control}, {NULL, NULL}};
