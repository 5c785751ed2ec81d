/* SPDX-License-Identifier: MIT */
/* vcpu_ops.c - what KVM knows of a vCPU's memory: its dirty log, and what it has mapped. */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vcpu.h"

static struct kst_vcpu *vcpu_arg(struct kst_subject *s, const json_t *args, json_t **reply)
{
	const struct kst_actor *a = kst_table_arg(&s->actors, args, "actor", reply);

	if (a && !a->vcpu)
		*reply = kst_error("argument actor: it is a thread, no vCPU");
	return a ? a->vcpu : NULL;
}

static json_t *op_log_dirty(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL;
	bool on;
	struct kst_vcpu *v = vcpu_arg(s, args, &reply);

	if (!v || !kst_arg_bool_or(args, "on", true, &on, &reply))
		return reply;
	return kst_vcpu_set_slot(v, KST_SLOT_REGION, on ? KVM_MEM_LOG_DIRTY_PAGES : 0) ? kst_ok(NULL) : kst_errno(errno, v->failed);
}

static json_t *op_dirty_pages(struct kst_subject *s, const json_t *args)
{
	json_t *reply = NULL, *list;
	struct kst_vcpu *v = vcpu_arg(s, args, &reply);
	struct kvm_dirty_log log = {.slot = KST_SLOT_REGION};
	uint64_t *bitmap;

	if (!v)
		return reply;
	bitmap = calloc(v->len / 4096 / 64 + 1, sizeof(*bitmap));
	if (!bitmap)
		abort();
	log.dirty_bitmap = bitmap;
	if (ioctl(v->vm, KVM_GET_DIRTY_LOG, &log)) {
		reply = kst_errno(errno, "KVM_GET_DIRTY_LOG");
	} else {
		list = json_array();
		for (uint64_t page = 0; page < v->len / 4096; page++)
			if (bitmap[page / 64] >> page % 64 & 1)
				json_array_append_new(list, json_integer((json_int_t)page));
		reply = kst_ok(json_pack("{s:o}", "pages", list));
	}
	free(bitmap);
	return reply;
}

/* The value of one of the VM's statistics, whose names and places the kernel tells; -1: no such. */
static json_int_t statistic(int fd, const struct kvm_stats_header *header, const char *name)
{
	union {
		struct kvm_stats_desc fixed;
		char bytes[128];
	} desc;
	uint64_t value;
	size_t size = sizeof(desc.fixed) + header->name_size;

	for (uint32_t i = 0; i < header->num_desc && size <= sizeof(desc); i++) {
		if (pread(fd, &desc, size, (off_t)(header->desc_offset + i * size)) != (ssize_t)size)
			return -1;
		if (!strncmp(desc.fixed.name, name, header->name_size))
			return pread(fd, &value, sizeof(value), (off_t)(header->data_offset + desc.fixed.offset)) ==
				sizeof(value) ? (json_int_t)value : -1;
	}
	return -1;
}

static json_t *op_mappings(struct kst_subject *s, const json_t *args)
{
	struct kvm_stats_header header;
	json_t *reply = NULL;
	struct kst_vcpu *v = vcpu_arg(s, args, &reply);
	int fd;

	if (!v)
		return reply;
	fd = ioctl(v->vm, KVM_GET_STATS_FD, NULL);
	if (fd < 0)
		return kst_errno(errno, "KVM_GET_STATS_FD");
	if (pread(fd, &header, sizeof(header), 0) == sizeof(header))
		reply = kst_ok(json_pack("{s:I, s:I}", "small", statistic(fd, &header, "pages_4k"), "huge",
					 statistic(fd, &header, "pages_2m")));
	else
		reply = kst_errno(errno, "read of the VM's statistics");
	close(fd);
	return reply;
}

const struct kst_op kst_vcpu_ops[] = {
	{"vcpu_log_dirty", op_log_dirty}, {"vcpu_dirty", op_dirty_pages}, {"vcpu_mappings", op_mappings}, {NULL, NULL}};
